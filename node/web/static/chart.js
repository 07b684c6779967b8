// Replaces the drawn curve of a <figure data-chart> by an interactive one; the table below stays.
"use strict";
(() => {
  if (typeof uPlot === "undefined") return;
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const draw = fig => {
    const data = JSON.parse(fig.dataset.series), names = fig.dataset.names.split(","), colours = fig.dataset.colors.split(",");
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "13px system-ui" };
    const kw = v => Math.abs(v) >= 1000 ? (v / 1000) + " kW" : v + " W";
    const opts = {
      width: fig.clientWidth, height: 260, tzDate: t => uPlot.tzDate(new Date(t * 1e3), "Etc/UTC"),
      cursor: { sync: { key: "day" }, drag: { x: true, y: false } }, legend: { show: false },
      series: [{}].concat(names.map((n, i) => ({ label: n, stroke: colour(colours[i]), width: n === "meter" ? 2.5 : 1.4, points: { show: false } }))),
      axes: [Object.assign({ values: [[3600, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}", null, null, null, null, null, null, 1]] }, axis), Object.assign({ size: 64, values: (u, vs) => vs.map(kw) }, axis)],
    };
    fig.querySelector(":scope > svg")?.remove();
    fig.querySelector(".uplot")?.remove();
    const plot = new uPlot(opts, data);
    fig.prepend(plot.root);
    fig.dataset.drawn = "yes";
    return plot;
  };
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  let plots = figures.map(draw);
  const again = () => { plots.forEach(p => p.destroy()); plots = figures.map(draw); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; plots.forEach((p, i) => p.setSize({ width: figures[i].clientWidth, height: 260 })); } });
})();
