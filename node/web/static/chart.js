// Replaces the drawn curve of a <figure data-chart> by an interactive one; the table below stays.
"use strict";
(() => {
  if (typeof uPlot === "undefined") return;
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const watts = v => v == null ? "" : Math.abs(v) >= 1000 ? (v / 1000).toFixed(2) + " kW" : Math.round(v) + " W";
  const tick = v => Math.abs(v) >= 1000 ? v / 1000 + " kW" : v + " W";
  const hours = t => new Date(t * 1000).toISOString().slice(11, 16);

  // ends writes each name beside the end of its line, pushed apart where two meet.
  const ends = (names, colours) => u => {
    const last = u.data[0].length - 1, gap = 15 * devicePixelRatio, c = u.ctx;
    const marks = names.map((name, i) => ({ name, colour: colour(colours[i]), y: u.valToPos(u.data[i + 1][last] || 0, "y", true) })).sort((a, b) => a.y - b.y);
    marks.forEach((m, i) => { if (i && m.y < marks[i - 1].y + gap) m.y = marks[i - 1].y + gap; });
    c.save();
    c.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`; c.textBaseline = "middle"; c.textAlign = "left";
    marks.forEach(m => { c.fillStyle = m.colour; c.fillText(m.name, u.bbox.left + u.bbox.width + 6 * devicePixelRatio, m.y); });
    c.restore();
  };

  // readout shows the values under the pointer in the caption.
  const readout = fig => u => {
    const i = u.cursor.idx, out = fig.querySelectorAll("figcaption b");
    out.forEach((b, s) => { b.textContent = i == null ? "" : watts(u.data[s + 1][i]) + (s ? "" : " at " + hours(u.data[0][i])); });
  };

  const draw = fig => {
    const data = JSON.parse(fig.dataset.series), names = fig.dataset.names.split(","), colours = fig.dataset.colors.split(",");
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const opts = {
      width: fig.clientWidth, height: 240, padding: [12, 56, 0, 0], tzDate: t => uPlot.tzDate(new Date(t * 1e3), "Etc/UTC"),
      cursor: { sync: { key: "day" }, drag: { x: true, y: false }, points: { size: 6 } }, legend: { show: false },
      scales: { y: { range: (u, lo, hi) => uPlot.rangeNum(Math.min(lo, 0), Math.max(hi, 100), 0.1, true) } },
      series: [{}].concat(names.map((n, i) => ({ label: n, stroke: colour(colours[i]), width: n === "meter" ? 2.5 : 1.4, points: { show: false } }))),
      axes: [Object.assign({ size: 28, space: 72, values: (u, ts) => ts.map(hours) }, axis), Object.assign({ size: 56, values: (u, vs) => vs.map(tick) }, axis)],
      hooks: { draw: [ends(names, colours)], setCursor: [readout(fig)] },
    };
    if ("fill" in fig.dataset) opts.bands = [{ series: [1, 2], fill: colour("--house") + "22" }, { series: [2, 1], fill: colour("--grid") + "22" }];
    fig.querySelector(":scope > svg")?.remove();
    const plot = new uPlot(opts, data);
    fig.prepend(plot.root);
    fig.dataset.drawn = "yes";
    return plot;
  };

  const figures = [...document.querySelectorAll("figure[data-chart]")];
  let plots = figures.map(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { plots.forEach(p => p.destroy()); plots = figures.map(draw); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; plots.forEach((p, i) => p.setSize({ width: figures[i].clientWidth, height: 240 })); } });

  // The curve grows while the page is looked at: the same page as JSON, every few seconds.
  const every = Number(figures[0]?.dataset.refresh || 0);
  const grow = async () => {
    if (!document.hidden) {
      const url = new URL(location); url.searchParams.set("format", "json");
      const v = await fetch(url).then(r => r.ok ? r.json() : null).catch(() => null);
      if (v?.Times) figures.forEach((f, i) => {
        const data = [v.Times].concat(f.dataset.keys.split(",").map(k => v[k]));
        f.dataset.series = JSON.stringify(data);
        plots[i].setData(data);
      });
    }
    setTimeout(grow, every * 1000);
  };
  if (every) setTimeout(grow, every * 1000);
})();
