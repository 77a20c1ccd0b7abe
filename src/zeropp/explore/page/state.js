// What the page shows, as one value: in the address's fragment, so that it can be shared, with undo.

const TOGETHER_MS = 600; // changes of one field that follow each other so fast are undone at once
const LATER_MS = 150; // after the last change the address is written; browsers slow down who writes more

async function through(stream, bytes) {
  const out = new Blob([bytes]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(out).arrayBuffer());
}

export async function toFragment(value) {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  const small = await through(new CompressionStream("deflate-raw"), bytes);
  const text = Array.from(small, (byte) => String.fromCharCode(byte)).join("");
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export async function fromFragment(fragment) {
  const text = atob(fragment.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
  const large = await through(new DecompressionStream("deflate-raw"), bytes);
  return JSON.parse(new TextDecoder().decode(large));
}

export class State {
  constructor(changed) {
    this.value = { tab: "schedule", wanted: {}, asked: {} };
    this.changed = changed; // is called after every change
    this.past = [];
    this.latest = { what: null, at: 0 };
    this.timer = null;
  }

  // Take what the address says; false if that is not understood.
  async read() {
    const fragment = location.hash.slice(1);
    if (!fragment) return true;
    const said = await fromFragment(fragment).catch(() => null);
    if (![said, said?.wanted, said?.asked].every((part) => part?.constructor === Object)) return false;
    this.value = { ...this.value, ...said };
    return true;
  }

  change(what, parts) {
    const now = performance.now();
    const together = what !== null && what === this.latest.what && now - this.latest.at < TOGETHER_MS;
    if (!together) this.past.push(this.value);
    this.latest = { what, at: now };
    this.value = { ...this.value, ...parts };
    this.tell();
  }

  undo() {
    if (!this.past.length) return;
    this.value = this.past.pop();
    this.latest = { what: null, at: 0 };
    this.tell();
  }

  tell() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), LATER_MS);
    this.changed(this.value);
  }

  async write() {
    const { value } = this, fragment = await toFragment(value);
    if (value === this.value) history.replaceState(null, "", `#${fragment}`);
  }
}
