// Pointer, touch and keys on a panel: pointing, keeping, moving an action in its row, zoom and pan.

const FAR = 5; // pixels after which a press is a drag

export class Hand {
  // does: { select(place), keep(), move(rank, start, end), redraw() }; editable: may be moved.
  constructor(panel, view, does, editable) {
    Object.assign(this, { panel, view, does, editable });
    this.selected = null; // { rank, lane, index, span }
    this.kept = false;
    this.pointers = new Map();
    const { canvas } = panel;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moves(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.selected || this.select({ rank: 0, row: 0, index: 0 }));
  }

  spans(rank) {
    return this.panel.lanes[rank][0].spans;
  }

  // An action of the compute row of a rank, or what `at` found.
  select(found) {
    if (!found.span) found = { ...found, lane: "compute", span: this.spans(found.rank)[found.index] };
    if (!found.span) return;
    this.selected = found;
    this.does.select({ rank: found.rank, position: found.span[0] });
  }

  point(event) {
    const box = this.panel.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    this.panel.canvas.focus({ preventScroll: true });
    const [x, y] = this.point(event);
    this.pointers.set(event.pointerId, x);
    this.panel.canvas.setPointerCapture(event.pointerId);
    const found = this.panel.at(x, y);
    this.press = { x, y, found, from: this.view.from, moved: false };
    if (found) this.select(found);
  }

  moves(event) {
    const [x, y] = this.point(event);
    if (this.pointers.size === 2) return this.pinch(event.pointerId, x);
    if (!this.press) {
      const found = this.kept ? null : this.panel.at(x, y);
      if (found && found.span !== this.selected?.span) this.select(found);
      return;
    }
    if (Math.abs(x - this.press.x) > FAR) this.press.moved = true;
    if (!this.press.moved) return;
    if (this.drags()) {
      const { rank, index } = this.press.found;
      this.panel.marks.drag = { rank, ...this.panel.drop(rank, index, x) };
    } else {
      this.view.pan(this.panel.time(this.press.x) - this.panel.time(x));
      this.press.x = x;
    }
    this.does.redraw();
  }

  drags() {
    return this.editable && this.press.found?.lane === "compute";
  }

  pinch(id, x) {
    const [a, b] = this.pointers.values(), before = Math.abs(a - b);
    this.pointers.set(id, x);
    const [c, d] = this.pointers.values(), now = Math.abs(c - d);
    if (before > 8 && now > 8) this.view.zoom(before / now, this.panel.time((c + d) / 2));
    this.press = null;
    this.does.redraw();
  }

  up(event) {
    const { drag } = this.panel.marks, press = this.press;
    this.cancel(event);
    if (press?.moved && drag) {
      const { rank, index } = press.found;
      if (drag.end !== index) return this.edit(rank, index, drag.end);
    } else if (press?.found && !press.moved) {
      this.keep(!this.kept);
    }
    this.does.redraw();
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.panel.marks.drag = null;
    this.press = null;
  }

  keep(kept) {
    this.kept = kept;
    this.does.keep(kept);
  }

  edit(rank, start, end) {
    this.follow = { rank, index: end }; // the action is selected again where it stands then
    this.does.move(rank, start, end);
  }

  wheel(event) {
    const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return; // the page scrolls
    event.preventDefault();
    const by = event.deltaX || event.deltaY;
    if (sideways && !event.ctrlKey) this.view.pan(((this.view.to - this.view.from) * by) / 800);
    else this.view.zoom(Math.exp(event.deltaY / 300), this.panel.time(this.point(event)[0]));
    this.does.redraw();
  }

  key(event) {
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key], other = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const shown = this.view.to - this.view.from;
    if (event.ctrlKey || event.metaKey) return;
    if (side && event.altKey) this.shift(side);
    else if (side && event.shiftKey) this.view.pan((side * shown) / 8);
    else if (side) this.step(side);
    else if (other && !event.altKey) this.across(other);
    else if (event.key === "Home" || event.key === "End") this.edge(event.key === "End");
    else if (event.key === "+" || event.key === "=") this.view.zoom(1 / 1.5);
    else if (event.key === "-") this.view.zoom(1.5);
    else if (event.key === "0") this.view.fit();
    else if (event.key === "Enter") this.keep(!this.kept);
    else if (event.key === "Escape") this.keep(false);
    else return;
    event.preventDefault();
    this.does.redraw();
  }

  step(by) {
    const { rank, lane, index } = this.selected ?? { rank: 0, lane: "compute", index: -1 };
    this.reach(rank, lane === "compute" ? index + by : 0);
  }

  reach(rank, index) {
    const span = this.spans(rank)[index];
    if (!span) return;
    this.view.see(span[4], span[5]);
    this.select({ rank, index });
  }

  across(by) {
    const rank = (this.selected?.rank ?? 0) + by;
    if (!this.panel.lanes[rank]) return;
    const middle = this.selected ? (this.selected.span[4] + this.selected.span[5]) / 2 : 0;
    const far = this.spans(rank).map((span) => Math.abs((span[4] + span[5]) / 2 - middle));
    this.reach(rank, far.indexOf(Math.min(...far)));
  }

  edge(last) {
    const rank = this.selected?.rank ?? 0;
    this.reach(rank, last ? this.spans(rank).length - 1 : 0);
  }

  shift(by) {
    if (!this.editable || this.selected?.lane !== "compute") return;
    const { rank, index } = this.follow ?? this.selected, end = index + by; // it may not be drawn yet
    if (end >= 0 && end < this.spans(rank).length) this.edit(rank, index, end);
  }

  // Another drawing came: the moved action is selected, or what stood at the same place.
  renewed() {
    const place = this.follow ?? (this.selected?.lane === "compute" ? this.selected : null);
    this.follow = null;
    this.selected = null;
    if (place && this.panel.lanes[place.rank]?.[0].spans[place.index]) this.select({ rank: place.rank, index: place.index });
    else this.does.select(null);
  }
}
