// Figures, comparison and idle times as tables; Python's numbers, rounded for reading.

import { element } from "./controls.js";

const short = (value) => (Math.abs(value) >= 1e4 ? value.toFixed(0) : String(Number(value.toPrecision(4))));
const percent = (value) => `${(100 * value).toFixed(1)} %`;

function table(target, caption, head, rows) {
  const cells = (kind, values) => values.map((value, index) => element(index ? kind : "th", { textContent: value, scope: kind === "th" ? "col" : index ? "" : "row" }));
  target.replaceChildren(
    element("caption", { textContent: caption }),
    element("thead", {}, element("tr", {}, ...cells("th", head))),
    element("tbody", {}, ...rows.map((row) => element("tr", { className: row.mark ?? "" }, ...cells("td", row)))),
  );
}

export function headline(target, panel) {
  const { figures } = panel;
  const said = figures
    ? [
        ["makespan", short(panel.makespan)],
        ["floor", panel.floor ? `${short(panel.floor)} (${percent(figures.over_floor)} over)` : "none"],
        ["bubble ratio", percent(figures.bubble_ratio)],
        ["peak, micro-batches", short(Math.max(...figures.peak_slots) / figures.num_chunks)],
        ["gathers, reduces", `${Math.max(...figures.gathers)}, ${Math.max(...figures.reduces)}`],
      ]
    : [["not sound", "it cannot run; drawn in order, without gaps"]];
  target.replaceChildren(...said.map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
}

export function compared(target, panels) {
  target.hidden = panels.length < 2;
  const fastest = Math.min(...panels.map((panel) => (panel.fits ? panel.makespan : Infinity)));
  const rows = panels.filter((panel) => panel.figures).map((panel) => {
    const { figures } = panel;
    const peak = Math.max(...figures.peak_slots) / figures.num_chunks;
    const row = [panel.name, figures.num_chunks, short(panel.makespan), percent(figures.over_floor), percent(figures.bubble_ratio), short(peak) + (panel.fits ? "" : " too many"), Math.max(...figures.gathers), Math.max(...figures.reduces)];
    return Object.assign(row, { mark: panel.makespan === fastest ? "best" : "" });
  });
  table(target, "Side by side", ["schedule", "V", "makespan", "over floor", "bubble", "peak", "gathers", "reduces"], rows);
}

export function figures(target, panel) {
  target.hidden = !panel.rows;
  table(target, `${panel.name}, in the unit of the costs`, ["figure", "value"], panel.rows ?? []);
}

export function idle(target, panel) {
  target.hidden = !panel.idle;
  const ranks = panel.idle ?? [];
  const causes = Object.keys(ranks[0] ?? {}).filter((cause) => ranks.some((rank) => rank[cause] > 0));
  const rows = ranks.map((rank, number) => [`rank ${number}`, ...causes.map((cause) => short(rank[cause]))]);
  table(target, "Idle time by cause", ["rank", ...causes], rows);
}

export function explained(target, told) {
  if (!told) return target.replaceChildren(element("p", { className: "quiet", textContent: "No action is pointed at." }));
  if (told.refused) return target.replaceChildren(element("p", { className: "wrong", textContent: told.refused }));
  const list = element("ul", {}, ...told.waits.map((wait) => element("li", { textContent: wait.text, className: wait.decisive ? "decisive" : "" })));
  const why = told.waits.length ? "It waits for:" : "It waits for nothing.";
  target.replaceChildren(
    element("p", {}, element("strong", { textContent: told.what }), `, ${told.when}${told.critical ? "; on the critical path" : ""}. ${why}`),
    list,
  );
}
