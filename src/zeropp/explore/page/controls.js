// Forms made of lists of fields: a field has its name, label, and what it is; refusals stand beside it.

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;

// What is typed as Python shall see it: a number where it is one, and nothing where it is empty.
function understood(text) {
  const plain = text.trim();
  if (plain === "") return undefined;
  return NUMBER.test(plain) ? Number(plain) : plain;
}

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

export class Form {
  // groups: [title, fields]; changed(name, value) is called with undefined for what is left out.
  constructor(form, groups, changed) {
    this.form = form;
    this.changed = changed;
    this.fields = new Map();
    for (const [title, fields] of groups) {
      const set = element("fieldset", {}, element("legend", { textContent: title }));
      set.append(...fields.map((field) => this.made(field)));
      form.append(set);
    }
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  made(field) {
    if (field.kind === "many") return this.many(field);
    const id = `field-${this.form.id}-${field.name}`;
    const wrong = element("p", { className: "wrong", id: `${id}-wrong`, hidden: true });
    const input = field.choices ? element("select", { id }) : element("input", { id });
    if (field.kind === "flag") input.type = "checkbox";
    else if (!field.choices) Object.assign(input, { type: "text", inputMode: field.kind === "text" ? "text" : "decimal" });
    if (field.placeholder) input.placeholder = field.placeholder;
    input.setAttribute("aria-describedby", wrong.id);
    const slider = field.range && element("input", { type: "range", min: field.range[0], max: field.range[1], step: field.range[2] ?? 1, tabIndex: -1 });
    slider?.setAttribute("aria-hidden", "true");
    const row = element("div", { className: "field" }, element("label", { htmlFor: id, textContent: field.label, title: field.help ?? "" }), input);
    if (slider) row.append(slider);
    row.append(wrong);
    this.fields.set(field.name, { ...field, input, slider, wrong, row });
    if (field.choices) this.choose(field.name, field.choices);
    this.listen(field, input, slider);
    return row;
  }

  // Any number of choices, whose names are joined by commas.
  many(field) {
    const wrong = element("p", { className: "wrong", hidden: true });
    const boxes = field.choices.map((name) => element("input", { type: "checkbox", value: name, id: `field-${this.form.id}-${field.name}-${name}` }));
    const input = element("details", {}, element("summary", { textContent: field.label }));
    input.append(...boxes.map((box) => element("label", { className: "check" }, box, ` ${box.value}`)));
    for (const box of boxes) {
      box.addEventListener("change", () => this.changed(field.name, boxes.filter((one) => one.checked).map((one) => one.value).join(",") || undefined));
    }
    const row = element("div", {}, input, wrong);
    this.fields.set(field.name, { ...field, input, boxes, wrong, row });
    return row;
  }

  listen(field, input, slider) {
    const said = () => {
      if (field.kind === "flag") return input.checked || undefined;
      if (field.choices) return input.value === "" ? undefined : input.value;
      return field.kind === "text" ? input.value.trim() || undefined : understood(input.value);
    };
    input.addEventListener(field.choices || field.kind === "flag" ? "change" : "input", () => {
      if (slider) slider.value = input.value;
      this.changed(field.name, said());
    });
    input.addEventListener("keydown", (event) => slider && this.step(event, input, slider));
    slider?.addEventListener("input", () => {
      input.value = field.optional && Number(slider.value) < field.range[0] + 1e-9 ? "" : slider.value;
      this.changed(field.name, said());
    });
  }

  // Up and down move a number as they move its slider.
  step(event, input, slider) {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    slider.value = Number(slider.value) + by * Number(slider.step);
    slider.dispatchEvent(new Event("input"));
  }

  choose(name, choices) {
    const { input } = this.fields.get(name);
    const before = input.value;
    const options = choices.map((one) => (Array.isArray(one) ? one : [one, one]));
    input.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
    input.value = before;
  }

  show(values, defaults) {
    for (const [name, field] of this.fields) {
      const value = values[name] ?? (name in values ? "" : defaults[name]) ?? "";
      if (field.boxes) {
        const chosen = value.split(",");
        for (const box of field.boxes) box.checked = chosen.includes(box.value);
        if (value) field.input.open = true;
      } else if (field.kind === "flag") field.input.checked = Boolean(value);
      else if (document.activeElement !== field.input || field.choices) field.input.value = value;
      if (field.slider && document.activeElement !== field.slider) field.slider.value = value === "" ? field.range[0] : value;
    }
  }

  enable(name, enabled) {
    const { input, slider, row } = this.fields.get(name);
    input.disabled = !enabled;
    if (slider) slider.disabled = !enabled;
    row.classList.toggle("off", !enabled);
  }

  // Show a refusal beside its field; false if it has none here.
  refuse(name, line) {
    for (const { input, wrong } of this.fields.values()) {
      input.removeAttribute("aria-invalid");
      wrong.hidden = true;
    }
    const field = this.fields.get(name);
    if (!line || !field) return !line;
    field.input.setAttribute("aria-invalid", "true");
    Object.assign(field.wrong, { hidden: false, textContent: line });
    return true;
  }
}

export { element };
