// The planner's tab: a model and a cluster, the plan that was found, why, and what else there is.

import { Form, element } from "./controls.js";
import { download } from "./page.js";
import { planGroups } from "./settings.js";

const FIRST = { model: "6.2b", gpus: 16, global_batch: 64 };

export class Planner {
  constructor(engine, state, look) {
    Object.assign(this, { engine, state });
    this.target = document.getElementById("plan");
    this.form = new Form(document.getElementById("asked"), planGroups(look), (name, value) => this.set(name, value));
    this.button = element("button", { textContent: "Plan", type: "submit" });
    this.stop = element("button", { textContent: "Cancel", type: "button", hidden: true });
    this.form.form.append(element("div", { className: "bar" }, this.button, this.stop));
    this.form.form.addEventListener("submit", () => this.plan());
    this.stop.addEventListener("click", () => this.engine.cancel("plan"));
  }

  set(name, value) {
    const asked = { ...this.asked(), [name]: value };
    if (value === undefined) delete asked[name];
    this.state.change(`plan ${name}`, { asked });
  }

  asked() {
    return { ...FIRST, ...this.state.value.asked };
  }

  show() {
    this.form.show(this.asked(), { gpu: "A100-80G" });
  }

  async plan() {
    this.stop.hidden = false;
    this.target.replaceChildren(element("p", { textContent: "Searching …" }));
    const answer = await this.engine.ask("plan", { asked: this.asked() });
    this.stop.hidden = true;
    if (answer === null) return this.target.replaceChildren(element("p", { textContent: "Cancelled." }));
    const beside = this.form.refuse(answer.field, answer.refused);
    if (!answer.refused) return this.tell(answer);
    this.target.replaceChildren(...(beside ? [] : [element("p", { className: "wrong", textContent: answer.refused })]));
  }

  tell({ rows, found, text }) {
    const save = element("button", { textContent: "Save plan", type: "button" });
    save.addEventListener("click", () => download("plan.toml", text));
    this.target.replaceChildren(
      element("h2", { textContent: `${found.family}` }),
      element("div", { className: "scroll" }, table(["", ""], rows)),
      element("div", { className: "bar" }, save),
      element("h3", { textContent: "Why" }),
      list(found.reasons),
      element("h3", { textContent: "Instead" }),
      element("div", { className: "scroll" }, table(["family", "step"], found.rivals.map(({ family, step_s }) => [family, step_s === null ? "none that fits within 1.5 times" : `${step_s.toPrecision(4)} s`]))),
      element("h3", { textContent: "Assumed" }),
      list(found.assumptions),
    );
  }
}

function list(lines) {
  return element("ul", {}, ...lines.map((line) => element("li", { textContent: line })));
}

function table(head, rows) {
  const cells = (row) => row.map((value, index) => element(index ? "td" : "th", { textContent: value, scope: index ? "" : "row" }));
  const top = head.some(Boolean) ? [element("tr", {}, ...head.map((name) => element("th", { textContent: name, scope: "col" })))] : [];
  return element("table", {}, ...top, ...rows.map((row) => element("tr", {}, ...cells(row))));
}
