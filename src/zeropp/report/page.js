"use strict";
// Curves and tabs of a report; all numbers are in the page. A panel is drawn when it is first shown.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 600;
const config = { responsive: true, displaylogo: false, displayModeBar: false };
const drawn = new Set();

function layout(more) {
  const base = {
    margin: { l: narrow() ? 48 : 64, r: 12, t: 10, b: 44 }, font: { family: "system-ui, sans-serif", size: 13, color: "#21242a" },
    legend: { orientation: "h", y: narrow() ? -0.3 : -0.22, yanchor: "top" }, hovermode: "closest", plot_bgcolor: "#fff",
    xaxis: { gridcolor: "#e6e8eb", zeroline: false }, yaxis: { gridcolor: "#e6e8eb", zeroline: false, automargin: true },
  };
  for (const [key, value] of Object.entries(more)) {
    base[key] = typeof value === "object" && base[key] && !Array.isArray(value) ? { ...base[key], ...value } : value;
  }
  return base;
}

function plot(id, traces, more, none) {
  const place = byId(id);
  if (!traces.some((trace) => trace.x.length)) {
    Plotly.purge(place);
    place.classList.add("empty");
    place.textContent = none;
    return;
  }
  if (place.classList.contains("empty")) { place.classList.remove("empty"); place.textContent = ""; }
  Plotly.react(place, traces, layout(more), config);
}

function smoothed(values, share) {
  let mean = null;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean === null ? value : share * mean + (1 - share) * value;
    return mean;
  });
}

const logarithmic = { type: "log", dtick: "D2" };
const against = () => byId("against").value;
const xOf = (curve) => curve[against()];

// a curve of which points were left out is its means, above its lowest and highest values
function lines(name) {
  return data.runs.filter((run) => run.curves[name]).flatMap((run) => {
    const curve = run.curves[name];
    const bold = { x: xOf(curve), y: curve.mean || curve.value, name: run.name, mode: "lines", line: { color: run.colour, dash: run.dash, width: 2 }, legendgroup: run.name };
    return curve.mean ? [faint(run, curve), bold] : [bold];
  });
}

function faint(run, curve) {
  return { x: xOf(curve), y: curve.value, mode: "lines", line: { color: run.colour, width: 1 }, opacity: 0.25, showlegend: false, hoverinfo: "skip", legendgroup: run.name };
}

function drawLoss() {
  const share = Number(byId("smooth").value);
  const traces = [];
  for (const run of data.runs) {
    const loss = run.curves.loss;
    if (loss) {
      if (share > 0 || loss.mean) traces.push(faint(run, loss));
      traces.push({ x: xOf(loss), y: smoothed(loss.mean || loss.value, share), name: run.name, mode: "lines", line: { color: run.colour, dash: run.dash, width: 2 }, legendgroup: run.name });
    }
    for (const [name, curve] of Object.entries(run.curves)) {
      if (!name.startsWith("val_loss")) continue;
      const label = name === "val_loss" ? "validation" : name.replace("val_loss_", "validation ");
      const few = curve.value.length < 60;
      traces.push({ x: xOf(curve), y: few ? curve.value : smoothed(curve.mean || curve.value, share), name: `${run.name}, ${label}`, mode: few ? "lines+markers" : "lines", line: { color: run.colour, width: few ? 1 : 2, dash: "dot" }, marker: { size: 6, symbol: "diamond" }, legendgroup: run.name });
    }
  }
  plot("plot-loss", traces, { xaxis: { title: { text: against(), standoff: 6 } }, yaxis: { title: { text: "loss" }, ...(byId("log").checked ? logarithmic : { type: "linear", dtick: null }) } }, "No step was made yet.");
}

function drawCurves() {
  drawLoss();
  setTimeout(drawRates); // once the page is there
}

function drawRates() {
  const x = { title: { text: against(), standoff: 6 } };
  plot("plot-norm", lines("grad_norm"), { xaxis: x, yaxis: { title: { text: "gradient norm" }, ...logarithmic }, showlegend: false }, "No gradient norm yet.");
  plot("plot-lr", lines("lr"), { xaxis: x, yaxis: { title: { text: "learning rate" } }, showlegend: false }, "No learning rate yet.");
}

const chosen = () => data.runs[Number(byId("run").value || 0)];

function drawSpeed() {
  const x = { title: { text: against(), standoff: 6 } };
  plot("plot-speed", lines("tokens_per_s"), { xaxis: x, yaxis: { title: { text: "tokens/s" }, rangemode: "tozero" } }, "No step was made yet.");
  plot("plot-mfu", lines("mfu"), { xaxis: x, yaxis: { title: { text: "MFU" }, tickformat: ".0%", rangemode: "tozero" }, showlegend: false }, "MFU is not known on this device.");
  const run = chosen();
  const traces = data.causes.filter((one) => run.curves["idle_" + one.name]).map((one) => {
    const curve = run.curves["idle_" + one.name];
    return { x: xOf(curve), y: curve.value, name: one.name, mode: "lines", stackgroup: "idle", line: { color: one.colour, width: 1 }, fillcolor: one.colour };
  });
  for (const [name, label, dash] of [["bubble", "bubble, measured", "solid"], ["bubble_predicted", "bubble, predicted", "dash"]]) {
    const curve = run.curves[name];
    if (curve) traces.push({ x: xOf(curve), y: curve.value, name: label, mode: "lines+markers", line: { color: "#21242a", dash, width: 2 }, marker: { size: 5 } });
  }
  plot("plot-idle", traces, { xaxis: x, yaxis: { title: { text: "idle / (P x makespan)" }, tickformat: ".0%", rangemode: "tozero" } }, "No step was evaluated yet.");
}

function drawMemory() {
  plot("plot-memory", lines("memory_gib"), { xaxis: { title: { text: against(), standoff: 6 } }, yaxis: { title: { text: "GiB" }, rangemode: "tozero" } }, "No memory was written down.");
  const traces = chosen().categories.map((one) => ({
    type: "bar", x: one.gib, y: one.bars, orientation: "h", name: one.name, marker: { color: one.colour, line: { color: "#fff", width: 1 } },
    hovertemplate: "%{x:.3f} GiB<extra>" + one.name + "</extra>",
  }));
  plot("plot-categories", traces, { barmode: "stack", margin: { l: narrow() ? 110 : 140, r: 12, t: 10, b: 44 }, xaxis: { title: { text: "GiB", standoff: 6 } }, yaxis: { automargin: true, autorange: "reversed", type: "category" } }, "Memory by category is written down in the second step.");
}

function drawTimeline() {
  const run = chosen();
  const traces = [];
  const shown = new Set();
  const edge = run.timelines.some((one) => one.parts.some((part) => part.rank.length > 500)) ? 0 : 0.4;
  run.timelines.forEach((timeline, index) => {
    for (const part of timeline.parts) {
      const first = !shown.has(part.name);
      shown.add(part.name);
      traces.push({
        type: "bar", orientation: "h", x: part.length, base: part.start, y: part.rank.map((rank) => `rank ${rank}`), text: part.action,
        textposition: "none", name: part.name, legendgroup: part.name, showlegend: first, width: 0.85, yaxis: index ? "y2" : "y",
        marker: { color: part.colour, line: { color: "#fff", width: edge } }, hovertemplate: "%{text}: %{base:.2f} ms, for %{x:.2f} ms<extra></extra>",
      });
    }
  });
  const two = run.timelines.length > 1;
  const rows = run.timelines.reduce((sum, one) => sum + one.ranks, 0);
  const height = Math.max(narrow() ? 200 : 240, 34 * rows) + (narrow() ? 260 : 130);
  byId("plot-timeline").style.height = `${height}px`;
  const gap = 16 / (height - 130);
  const axis = (top) => ({ autorange: "reversed", type: "category", domain: two ? (top ? [0.5 + gap, 1] : [0, 0.5 - gap]) : [0, 1], fixedrange: true, automargin: true });
  const titles = run.timelines.map((one, index) => ({ text: `${one.name}: ${one.makespan.toFixed(1)} ms, bubble ratio ${(100 * one.bubble).toFixed(1)} %`, x: 0, xref: "paper", xanchor: "left", y: index ? 0.5 - gap : 1, yref: "paper", yanchor: "bottom", showarrow: false }));
  plot("plot-timeline", traces, { barmode: "overlay", margin: { l: 60, r: 12, t: 28, b: 44 }, annotations: titles, legend: { orientation: "h", y: -30 / (height - 130), yanchor: "top" }, xaxis: { ticksuffix: " ms", rangemode: "tozero", anchor: two ? "y2" : "y" }, yaxis: axis(true), yaxis2: axis(false), dragmode: "zoom" }, "No step was measured yet: run.eval_every says how often one is.");
}

const draw = { curves: drawCurves, speed: drawSpeed, memory: drawMemory, timeline: drawTimeline };

function ensure(id) {
  if (draw[id] && !drawn.has(id)) { drawn.add(id); draw[id](); }
}

function redraw() {
  drawn.clear();
  ensure(document.querySelector(".panel:not([hidden])").id);
}

function open(tab, focus) {
  for (const other of byId("tabs").children) {
    const selected = other === tab;
    other.setAttribute("aria-selected", selected);
    other.tabIndex = selected ? 0 : -1;
    byId(other.dataset.panel).hidden = !selected;
  }
  if (focus) tab.focus();
  ensure(tab.dataset.panel);
}

for (const panel of document.querySelectorAll(".panel")) {
  const tab = document.createElement("button");
  Object.assign(tab, { type: "button", textContent: panel.dataset.tab, id: "tab-" + panel.id });
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  tab.dataset.panel = panel.id;
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", () => open(tab, false));
  byId("tabs").append(tab);
}
byId("tabs").addEventListener("keydown", (event) => {
  const tabs = [...byId("tabs").children];
  const at = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  open(tabs[(to + tabs.length) % tabs.length], true);
});
data.runs.forEach((run, index) => byId("run").add(new Option(run.name, index)));
byId("choice").hidden = data.runs.length < 2;
byId("smooth").addEventListener("input", drawLoss);
byId("log").addEventListener("change", drawLoss);
byId("against").addEventListener("change", redraw);
byId("run").addEventListener("change", redraw);
window.addEventListener("beforeprint", () => { // all of it, drawn while it can be measured
  document.querySelectorAll(".panel").forEach((panel) => { panel.hidden = false; ensure(panel.id); });
  if (drawn.has("curves")) drawRates();
});
window.addEventListener("afterprint", () => open(document.querySelector("[role=tab][aria-selected=true]"), false));
open(byId("tabs").firstElementChild, false);
