// The page: settings to questions, answers to drawings.

import { Form, element } from "./controls.js";
import { Engine } from "./engine.js";
import * as figures from "./figures.js";
import { Hand } from "./hand.js";
import { Planner } from "./planner.js";
import { costsOf, groups, withCost } from "./settings.js";
import { State } from "./state.js";
import { Panel, View } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const FREE = new Set(["compare", "limit", "split", "recompute"]); // fields that leave the order as it is

class Page {
  constructor() {
    this.engine = new Engine((seconds) => this.busy(seconds));
    this.state = new State(() => this.renew());
    this.view = new View();
    this.hands = [];
    this.note = "";
  }

  async start() {
    await this.engine.start();
    this.look = await this.engine.ask("catalogue");
    if (this.look.refused) return this.say(this.look.refused);
    if (!(await this.state.read())) this.note = "The address holds settings that are not understood; these are the defaults.";
    this.form = new Form($("controls"), groups(this.look), (name, value) => this.set(name, value));
    this.summary = element("p", { className: "quiet" });
    this.form.fields.get("schedule").row.append(this.summary);
    this.planner = new Planner(this.engine, this.state, this.look);
    this.listen();
    await this.renew();
    document.body.dataset.ready = "yes";
  }

  say(text) {
    $("status").textContent = text;
  }

  busy(seconds) {
    if (seconds !== null && seconds > 0.4) this.say(`Computing … ${seconds.toFixed(1)} s`);
    else if (seconds === null && this.look && !this.look.refused) this.say("Ready");
    document.body.dataset.busy = seconds === null ? "" : "yes";
  }

  listen() {
    $("undo").addEventListener("click", () => this.undo());
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input:not([type=range]):not([type=checkbox])");
      if ((event.ctrlKey || event.metaKey) && event.key === "z" && !typing) {
        event.preventDefault();
        this.undo();
      }
    });
    $("save").addEventListener("click", () => this.save());
    $("keep").addEventListener("click", () => this.keepOrder());
    $("load").addEventListener("change", () => this.load());
    $("unload").addEventListener("click", () => this.change("file", { file: undefined, file_name: undefined, moves: undefined }));
    $("lit").addEventListener("change", () => this.redraw());
    const zooms = { closer: () => this.view.zoom(1 / 1.5), wider: () => this.view.zoom(1.5), fit: () => this.view.fit() };
    for (const [id, zoom] of Object.entries(zooms)) $(id).addEventListener("click", () => (zoom(), this.redraw()));
    $("as-text").addEventListener("toggle", () => this.drawText());
    for (const tab of ["schedule", "planner"]) $(`tab-${tab}`).addEventListener("click", () => this.state.change("tab", { tab }));
    new ResizeObserver(() => this.redraw()).observe($("panels"));
    addEventListener("hashchange", async () => (await this.state.read()) && this.renew());
  }

  // Another value of some settings; undefined leaves one out.
  change(what, parts) {
    const wanted = { ...this.state.value.wanted, ...parts };
    for (const name of Object.keys(wanted)) if (wanted[name] === undefined) delete wanted[name];
    this.state.change(what, { wanted });
  }

  async set(name, value) {
    const edited = this.state.value.wanted.moves?.length && !FREE.has(name);
    const costs = withCost(this.costs(), name, value);
    if (costs !== null) [name, value] = ["costs", costs];
    this.note = edited ? "Another order was made, so the edits are gone; Undo brings them back." : "";
    const moves = edited ? { moves: undefined } : {};
    if (name === "placement") [name, value] = ["schedule", this.look.schedules.find((one) => one.shape === value).name];
    if (name !== "schedule") return this.change(name, { [name]: value, ...moves });
    const { wanted } = this.state.value;
    const answer = await this.engine.ask("turn", { wanted: { ...wanted, ...moves, compare: undefined }, schedule: value });
    if (answer === null) return;
    const now = this.state.value.wanted, turned = answer.wanted ?? { schedule: value };
    const kept = Object.entries(turned).filter(([key]) => now[key] === wanted[key]); // not changed meanwhile
    this.change(name, { ...Object.fromEntries(kept.map(([key, is]) => [key, is ?? undefined])), ...moves });
  }

  costs() {
    return this.state.value.wanted.costs ?? this.look.defaults.costs;
  }

  undo() {
    this.note = "";
    this.state.undo();
  }

  move(rank, start, end) {
    this.note = "";
    this.change(null, { moves: [...(this.state.value.wanted.moves ?? []), [rank, start, end]] });
  }

  // All that follows from the state.
  async renew() {
    const { wanted, tab } = this.state.value;
    for (const name of ["schedule", "planner"]) {
      $(name).hidden = name !== tab;
      $(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
    }
    this.planner.show();
    this.showControls(wanted);
    const answer = await this.engine.ask("simulate", { wanted });
    if (answer === null) return;
    const beside = this.form.refuse(answer.field, answer.refused);
    Object.assign($("refused"), { hidden: !answer.refused || beside, textContent: answer.refused ?? "" });
    $("view").classList.toggle("stale", Boolean(answer.refused));
    if (!answer.refused) this.show(answer, wanted);
    document.body.dataset.answers = JSON.stringify(wanted); // what is seen is of these settings
  }

  showControls(wanted) {
    const made = this.look.schedules.find((one) => one.name === (wanted.schedule ?? "zeropp"));
    this.summary.textContent = made?.summary ?? "";
    this.form.show({ ...wanted, placement: made?.shape, ...costsOf(this.costs()) }, this.look.defaults);
    for (const name of this.look.of_schedules) if (this.form.fields.has(name)) this.form.enable(name, !wanted.file);
    for (const name of ["schedule", "placement"]) this.form.enable(name, !wanted.file);
    if (!wanted.file) for (const name of ["unit_size", "seam", "slots"]) this.form.enable(name, made?.options.includes(name) || (name === "slots" && wanted.refine));
    $("unload").hidden = !wanted.file;
    $("unload").textContent = `Close ${wanted.file_name ?? "file"}`;
    $("undo").disabled = !this.state.past.length;
    Object.assign($("note"), { hidden: !this.note, textContent: this.note });
  }

  show({ main, peers }, wanted) {
    this.panels = [main, ...peers];
    const { unsound } = main;
    Object.assign($("unsound"), { hidden: !unsound, textContent: (unsound ?? []).join("\n") });
    $("save").disabled = $("keep").disabled = Boolean(unsound);
    figures.headline($("headline"), main);
    figures.compared($("compared"), this.panels);
    figures.figures($("figures"), main);
    figures.idle($("idle"), main);
    this.view.extend(Math.max(...this.panels.map((panel) => panel.makespan ?? 0)));
    const most = (panel) => Math.max(...(panel.memory ?? []).flat().map(([, amount]) => amount), 0);
    this.scale = Math.max(...this.panels.map(most));
    this.limit = typeof wanted.limit === "number" ? wanted.limit : null;
    this.showPanels();
    this.drawText();
  }

  showPanels() {
    while (this.hands.length > this.panels.length) this.hands.pop().figure.remove();
    while (this.hands.length < this.panels.length) this.hands.push(this.made(this.hands.length));
    this.panels.forEach((panel, number) => {
      const hand = this.hands[number];
      hand.caption.textContent = panel.refused ? `${panel.name}: ${panel.refused}` : [panel.name, ...panel.caption].join("   ");
      hand.caption.classList.toggle("wrong", Boolean(panel.refused));
      hand.panel.canvas.hidden = Boolean(panel.refused);
      if (panel.refused) return;
      hand.name = panel.name;
      hand.panel.canvas.setAttribute("aria-label", `Timeline of ${panel.name}: arrow keys go from action to action`);
      hand.panel.show(panel, this.view, this.scale, this.limit);
      if (hand.selected || hand.follow) hand.renewed();
    });
    this.showKey();
    this.redraw();
  }

  made(number) {
    const caption = element("figcaption", {}), canvas = element("canvas", { tabIndex: 0 });
    canvas.setAttribute("role", "application");
    const figure = element("figure", {}, caption, canvas);
    $("panels").append(figure);
    const panel = new Panel(canvas, this.look);
    const does = {
      select: (place) => this.select(hand, place),
      keep: (kept) => $("explained").classList.toggle("kept", kept),
      move: (...move) => this.move(...move),
      redraw: () => this.redraw(),
    };
    const hand = Object.assign(new Hand(panel, this.view, does, number === 0), { figure, caption });
    return hand;
  }

  async select(hand, place) {
    for (const other of this.hands) Object.assign(other.panel.marks, { selected: other === hand ? place : null, waits: [] });
    this.redraw();
    if (!place || hand.panel.panel.unsound) return figures.explained($("explained"), null);
    const peer = hand === this.hands[0] ? {} : { peer: hand.name };
    const told = await this.engine.ask("explain", { wanted: this.state.value.wanted, rank: place.rank, at: place.position, ...peer });
    if (told === null) return;
    figures.explained($("explained"), told);
    hand.panel.marks.waits = told.waits ?? [];
    this.redraw();
  }

  redraw() {
    for (const { panel } of this.hands) {
      panel.marks.critical = $("lit").checked;
      if (!panel.canvas.hidden) panel.draw();
    }
    document.body.dataset.drawn = String(performance.now());
  }

  showKey() {
    const used = new Set(this.panels.flatMap((panel) => (panel.ranks ?? []).flatMap((rank) => Object.values(rank).flat(2).map((span) => span[1]))));
    const { colours } = this.panels[0];
    const parts = Object.entries(this.look.letters).filter(([kind]) => used.has(kind)).map(([kind, [letters, name]]) => {
      const patch = element("span", { className: "patch" });
      patch.style.background = colours[kind][0][0];
      return element("span", {}, patch, ` ${letters} ${name}`);
    });
    $("key").replaceChildren(...parts);
  }

  async drawText() {
    if (!$("as-text").open) return;
    const answer = await this.engine.ask("text", { wanted: this.state.value.wanted });
    if (answer) $("as-text").querySelector("pre").textContent = answer.text ?? answer.refused;
  }

  async save() {
    const answer = await this.engine.ask("save", { wanted: this.state.value.wanted });
    if (!answer) return;
    const beside = this.form.refuse(answer.field, answer.refused);
    Object.assign($("refused"), { hidden: !answer.refused || beside, textContent: answer.refused ?? "" });
    if (!answer.refused) download(answer.name, answer.text);
  }

  async keepOrder() {
    const answer = await this.engine.ask("order", { wanted: this.state.value.wanted });
    if (answer && !answer.refused) this.open(answer.name, answer.text);
  }

  async load() {
    const [file] = $("load").files;
    if (file) this.open(file.name, await file.text());
    $("load").value = "";
  }

  // A file says its own sizes and order, so settings that would contradict it go.
  open(name, text) {
    const wanted = { ...this.state.value.wanted };
    const said = [...this.look.of_schedules, "schedule", "moves", ...(text.startsWith("zeropp program") ? this.look.of_programs : [])];
    for (const one of said) wanted[one] = undefined;
    this.note = "";
    this.change("file", { ...wanted, file: text, file_name: name });
  }
}

export function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

new Page().start();
