"""The command ``ray-mixopt``: one module a command."""


def program() -> None:
    """The program, which heeds Ctrl-C before it loads anything else."""
    from ray_mixopt.cli.interrupts import listen

    listen()
    from ray_mixopt.cli.main import main

    main()
