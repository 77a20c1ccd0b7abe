// One schedule on a canvas: time to the right, ranks downwards; boxes, collectives, messages, memory.
// It draws what Python has computed and knows no rule of schedules.

const ROW = 24, THIN = 8, MEMORY = 20, GAP = 10, TOP = 18, LEFT = 56, RIGHT = 12;
const NARROWEST = 1e-3; // of the whole, that zooming in may show

export class View {
  // The part of the time that all panels show.
  constructor() {
    this.end = 1;
    this.fit();
  }

  fit() {
    [this.from, this.to] = [0, this.end];
  }

  // A longer or shorter whole; what was shown whole stays so.
  extend(end) {
    const whole = this.from === 0 && this.to === this.end;
    this.end = end;
    if (whole || this.to > end) this.fit();
  }

  zoom(factor, at = (this.from + this.to) / 2) {
    const least = this.end * NARROWEST;
    const width = Math.min(this.end, Math.max(least, (this.to - this.from) * factor));
    const share = (at - this.from) / (this.to - this.from);
    this.from = at - share * width;
    this.to = this.from + width;
    this.pan(0);
  }

  pan(by) {
    const width = this.to - this.from;
    this.from = Math.min(Math.max(0, this.from + by), this.end - width);
    this.to = this.from + width;
  }

  see(from, to) {
    if (from < this.from) this.pan(from - this.from);
    else if (to > this.to) this.pan(Math.min(to - this.to, from - this.from));
  }
}

export class Panel {
  constructor(canvas, look) {
    this.canvas = canvas;
    this.look = look; // letters and colours, from Python
    this.marks = { selected: null, waits: [], drag: null, critical: true };
  }

  // panel: as Python tells it; view: shared; scale: the largest memory of all panels; limit: of it.
  show(panel, view, scale, limit) {
    Object.assign(this, { panel, view, scale, limit });
    this.lanes = panel.ranks.map((rank) => ["compute", "collectives", "p2p"].flatMap((lane) => rank[lane].map((spans) => ({ lane, spans }))));
    const memory = panel.memory?.length ? MEMORY + 4 : 0;
    let top = TOP;
    this.tops = this.lanes.map((lanes) => {
      const own = top;
      top += ROW + (lanes.length - 1) * THIN + memory + GAP;
      return own;
    });
    this.height = top;
    this.critical = new Set((panel.critical ?? []).map(([rank, position]) => `${rank} ${position}`));
    this.wrong = new Set((panel.wrong ?? []).map(([rank, position]) => `${rank} ${position}`));
    this.draw();
  }

  x(time) {
    return LEFT + ((time - this.view.from) / (this.view.to - this.view.from)) * (this.width - LEFT - RIGHT);
  }

  time(x) {
    return this.view.from + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (this.view.to - this.view.from);
  }

  draw() {
    if (!this.panel) return;
    const { canvas } = this, dots = window.devicePixelRatio || 1;
    this.width = canvas.parentElement.clientWidth;
    canvas.style.height = `${this.height}px`;
    canvas.width = Math.round(this.width * dots);
    canvas.height = Math.round(this.height * dots);
    const pen = (this.pen = canvas.getContext("2d"));
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.fillStyle = this.look.colours.white;
    pen.fillRect(0, 0, this.width, this.height);
    this.drawTimes();
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, this.width - LEFT - RIGHT + 1, this.height);
    pen.clip();
    this.lanes.forEach((_, rank) => this.drawRank(rank));
    this.drawFloor();
    this.drawMarks();
    pen.restore();
    this.drawNames();
  }

  text(said, x, y, colour, align = "left", size = 11) {
    Object.assign(this.pen, { fillStyle: colour, font: `${size}px system-ui, sans-serif`, textAlign: align, textBaseline: "middle" });
    this.pen.fillText(said, x, y);
  }

  drawTimes() {
    const room = (this.view.to - this.view.from) / Math.max(1, (this.width - LEFT) / 70);
    const power = 10 ** Math.floor(Math.log10(room));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= room);
    for (let n = Math.ceil(this.view.from / step); n * step <= this.view.to; n++) {
      const x = this.x(n * step);
      this.pen.fillStyle = this.look.colours.idle;
      this.pen.fillRect(x, TOP - 4, 1, this.height);
      if (x < this.width - RIGHT - 20) this.text(String(Number((n * step).toPrecision(6))), x + 2, 8, this.look.colours.quiet, "left", 10);
    }
  }

  drawNames() {
    this.tops.forEach((top, rank) => {
      this.text(`rank ${rank}`, 4, top + ROW / 2, this.look.colours.ink);
      const curve = this.panel.memory?.[rank];
      if (!curve) return;
      const peak = Math.max(...curve.map(([, amount]) => amount));
      this.text(`≤ ${Number(peak.toPrecision(3))}`, 4, this.base(rank) - MEMORY / 2, this.look.colours.quiet, "left", 10);
    });
  }

  base(rank) {
    return this.tops[rank] + ROW + (this.lanes[rank].length - 1) * THIN + 4 + MEMORY;
  }

  drawRank(rank) {
    const pen = this.pen;
    pen.fillStyle = this.look.colours.idle;
    pen.fillRect(this.x(0), this.tops[rank], this.x(this.panel.makespan) - this.x(0), ROW);
    this.lanes[rank].forEach(({ lane, spans }, number) => {
      const top = this.tops[rank] + (number ? ROW + 2 + (number - 1) * THIN : 0);
      for (const span of spans) this.drawSpan(rank, span, top, lane === "compute" ? ROW : THIN - 2);
    });
    if (this.panel.memory?.[rank]) this.drawMemory(rank);
  }

  drawSpan(rank, [position, kind, stage, m, start, end], top, height) {
    const left = this.x(start), right = this.x(end);
    if (right < LEFT || left > this.width) return;
    const [colour, ink] = this.panel.colours[kind][this.panel.chunks[stage]];
    const width = Math.max(0.5, right - left - (right - left > 3 ? 1 : 0));
    this.pen.fillStyle = colour;
    this.pen.fillRect(left, top, width, height);
    const place = `${rank} ${position}`;
    if (this.wrong.has(place)) this.outline(left, top, width, height, "#c00000", 3);
    else if (this.marks.critical && this.critical.has(place)) this.outline(left, top, width, height, this.look.colours.ink, height > THIN ? 2 : 1);
    if (height < ROW || width < 12) return;
    const short = m < 0 ? String(stage) : String(m);
    const long = `${kind}${short}`;
    this.text(width > 9 + 7 * long.length ? long : short, (Math.max(left, LEFT) + Math.min(right, this.width)) / 2, top + height / 2 + 0.5, ink, "center", 11);
  }

  outline(left, top, width, height, colour, thick) {
    Object.assign(this.pen, { strokeStyle: colour, lineWidth: thick });
    this.pen.strokeRect(left + thick / 2, top + thick / 2, Math.max(0, width - thick), height - thick);
  }

  drawMemory(rank) {
    const pen = this.pen, base = this.base(rank), tall = (amount) => (MEMORY * amount) / (this.scale || 1);
    const curve = this.panel.memory[rank];
    pen.beginPath();
    pen.moveTo(this.x(0), base);
    curve.forEach(([time, amount], index) => {
      const until = curve[index + 1]?.[0] ?? this.panel.makespan;
      pen.lineTo(this.x(time), base - tall(amount));
      pen.lineTo(this.x(until), base - tall(amount));
    });
    pen.lineTo(this.x(this.panel.makespan), base);
    Object.assign(pen, { fillStyle: this.look.colours.held, strokeStyle: this.look.colours.held_edge, lineWidth: 1 });
    pen.fill();
    pen.stroke();
    if (this.limit && this.limit <= this.scale) this.line([[LEFT, base - tall(this.limit)], [this.width, base - tall(this.limit)]], "#c00000", 1, [4, 3]);
  }

  line(points, colour, thick, dashes = []) {
    const pen = this.pen;
    pen.beginPath();
    points.forEach(([x, y]) => pen.lineTo(x, y));
    Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
    pen.setLineDash(dashes);
    pen.stroke();
    pen.setLineDash([]);
  }

  drawFloor() {
    if (!this.panel.floor) return;
    const x = this.x(this.panel.floor);
    this.line([[x, 2], [x, this.height - 4]], this.look.colours.ink, 1, [4, 3]);
    const left = x > this.width - 60;
    this.text("floor", x + (left ? -3 : 3), this.height - 5, this.look.colours.ink, left ? "right" : "left", 10);
  }

  // The selected action, what it waits for, and where a dragged one would go.
  drawMarks() {
    const { selected, waits, drag } = this.marks;
    const box = selected && this.boxOf(selected.rank, selected.position);
    for (const wait of waits) {
      const from = this.boxOf(wait.rank, wait.position);
      if (!box || !from) continue;
      const colour = wait.decisive ? "#c00000" : this.look.colours.quiet;
      this.outline(from.left - 1, from.top - 1, from.right - from.left + 2, from.height + 2, colour, 2);
      if (wait.rank !== selected.rank) this.line([[from.right, from.top + from.height / 2], [box.left, box.top + box.height / 2]], colour, wait.decisive ? 2 : 1);
    }
    if (box) this.outline(box.left - 2, box.top - 2, box.right - box.left + 4, box.height + 4, "#c00000", 3);
    if (drag) this.line([[drag.x, this.tops[drag.rank] - 5], [drag.x, this.tops[drag.rank] + ROW + 5]], "#c00000", 3);
  }

  boxOf(rank, position) {
    const lanes = this.lanes[rank] ?? [];
    for (const [number, { lane, spans }] of lanes.entries()) {
      const span = spans.find((one) => one[0] === position);
      if (!span) continue;
      const top = this.tops[rank] + (number ? ROW + 2 + (number - 1) * THIN : 0);
      return { lane, span, top, left: this.x(span[4]), right: this.x(span[5]), height: number ? THIN - 2 : ROW };
    }
    return null;
  }

  // What is at a point: {rank, lane, index, span}; the nearest rank, for drags, with lane null.
  at(x, y) {
    const time = this.time(x);
    for (const [rank, lanes] of this.lanes.entries()) {
      for (const [number, { lane, spans }] of lanes.entries()) {
        const top = this.tops[rank] + (number ? ROW + 2 + (number - 1) * THIN : 0);
        if (y < top || y > top + (number ? THIN - 1 : ROW)) continue;
        const index = spans.findIndex((span) => span[4] <= time && time < span[5]);
        if (index >= 0) return { rank, lane, index, span: spans[index] };
      }
    }
    return null;
  }

  // Where in a rank's row an action from `start` goes that is dropped at x, and the edge that shows it.
  drop(rank, start, x) {
    const spans = this.lanes[rank][0].spans, time = this.time(x);
    const before = spans.filter((span, index) => index !== start && (span[4] + span[5]) / 2 < time).length;
    const edge = before >= spans.length - 1 ? spans.at(-1)[5] : spans.filter((_, index) => index !== start)[before][4];
    return { end: before, x: this.x(edge) };
  }
}
