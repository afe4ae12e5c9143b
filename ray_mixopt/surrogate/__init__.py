"""What is believed about each metric: kernels, hyper-parameters, posterior at the target."""
