"use strict";
// Draws every panel as wide as its place, again when that changes, and for paper.
(() => {
  const panels = JSON.parse(document.getElementById("panels").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const mouse = matchMedia("(pointer: fine)").matches; // else a finger, which scrolls the page: see the style
  const PAPER = "paper";

  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  tip.hidden = true;
  const show = (text, place) => {
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(place.clientX + 14, innerWidth - tip.offsetWidth - 4);
    const below = place.clientY + 14, above = place.clientY - tip.offsetHeight - 10;
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : Math.max(above, 4)}px`;
  };

  const draw = async (plot) => {
    const { data, layout } = panels[plot.dataset.panel];
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) layout[name].fixedrange = !mouse;
    layout.width = plot.clientWidth;
    layout.dragmode = mouse ? "zoom" : false;
    await Plotly.newPlot(plot, data, layout, { displayModeBar: false, showTips: false });
    plot.on("plotly_hover", ({ points, event }) => points[0].text && show(points[0].text, event));
    plot.on("plotly_unhover", () => (tip.hidden = true));
    if (!mouse)
      plot.addEventListener("click", ({ clientX, clientY }) => {
        tip.hidden = true;
        Plotly.Fx.hover(plot, { target: plot.querySelector(".nsewdrag"), clientX, clientY }, "xy");
      });
  };
  const page = document.documentElement.dataset;
  let fitting = 0;
  const fit = async (plot) => {
    const width = plot.clientWidth;
    if (!plot._fullLayout || !width || Math.abs(plot._fullLayout.width - width) <= 1) return;
    fitting += 1;
    delete page.drawn;
    await Plotly.relayout(plot, { width });
    fitting -= 1;
    if (!fitting) page.drawn = "all";
  };
  const all = async () => {
    for (const plot of plots) {
      await draw(plot);
      await new Promise((go) => setTimeout(go)); // so that the page can be read meanwhile
    }
    const watch = new ResizeObserver((seen) => seen.forEach((entry) => fit(entry.target)));
    plots.forEach((plot) => watch.observe(plot));
    page.drawn = "all";
  };
  addEventListener("beforeprint", () => {
    document.body.classList.add(PAPER);
    tip.hidden = true;
    plots.forEach(fit);
  });
  addEventListener("afterprint", () => {
    document.body.classList.remove(PAPER);
    plots.forEach(fit);
  });
  all();
})();
