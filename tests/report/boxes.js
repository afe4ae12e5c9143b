// What does not fit on a page: texts and legends of figures cut off, or on top of each other, and text off the page.
() => {
  const found = [];
  const box = (element) => element.getBoundingClientRect();
  const name = (element) => `${element.tagName} "${element.textContent.trim().slice(0, 40)}"`;
  const apart = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) < 1 || Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) < 1;
  const inside = (a, b) => a.left > b.left - 1 && a.right < b.right + 1 && a.top > b.top - 1 && a.bottom < b.bottom + 1;

  for (const plot of document.querySelectorAll(".plot")) {
    const panel = plot.dataset.panel, area = plot.querySelector(".nsewdrag"), legend = plot.querySelector(".legend");
    if (!area) { found.push(`${panel} is not drawn`); continue; }
    if (box(area).width < 120 || box(area).height < 40) found.push(`${panel} has no room`);
    if (Math.abs(box(plot.querySelector(".main-svg")).width - box(plot).width) > 2) found.push(`${panel} is not as wide as its place`);
    const texts = [...plot.querySelectorAll("text")].filter((text) => text.textContent.trim() && box(text).width);
    texts.filter((text) => !inside(box(text), box(plot))).forEach((text) => found.push(`${panel}: ${name(text)} is cut off`));
    texts.forEach((a, i) => texts.slice(i + 1).filter((b) => !apart(box(a), box(b))).forEach((b) => found.push(`${panel}: ${name(a)} is on ${name(b)}`)));
    if (legend) {
      if (!apart(box(legend), box(area))) found.push(`${panel}: the legend is on the plot`);
      const frame = box(legend.querySelector(".bg"));
      [...legend.querySelectorAll(".legendtext")].filter((text) => !inside(box(text), frame)).forEach((text) => found.push(`${panel}: ${name(text)} is cut off by its legend`));
    }
  }
  const texts = [...document.querySelectorAll("h1, h2, h3, h4, p, td, th, li, figcaption, summary, caption, .button, pre")].filter((e) => e.checkVisibility() && box(e).width);
  for (const text of texts) {
    const frame = text.closest(".scroll, pre") ? box(text.closest(".scroll, pre")) : { left: 0, right: innerWidth };
    if (box(text).left < frame.left - 1 || (!text.closest(".scroll") && box(text).right > frame.right + 1)) found.push(`${name(text)} is off the page`);
    if (text.tagName !== "PRE" && text.scrollWidth > text.clientWidth + 1 && getComputedStyle(text).display !== "inline") found.push(`${name(text)} does not fit`);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
  return found;
}
