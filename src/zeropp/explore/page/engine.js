// Who answers: the server that sent the page, or the browser's own Python in a worker. Of questions
// of one sort only the newest is answered; older ones get null.

const PAGE = crypto.randomUUID();

class Server {
  async ask(question) {
    const response = await fetch("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...question, page: PAGE }),
    });
    if (response.status === 204) return null;
    if (!response.ok) return { refused: (await response.text()).trim(), field: null };
    return response.json();
  }
}

class Browser {
  constructor(pyodide) {
    this.pyodide = pyodide;
    this.waiting = new Map(); // sort -> [question, resolve], in order of their coming
    this.start();
  }

  start() {
    this.running = null;
    this.worker = new Worker("worker.js", { type: "module" });
    this.worker.onmessage = ({ data }) => this.finish(data);
    this.worker.onerror = (event) => this.finish({ refused: `the browser's Python: ${event.message}`, field: null });
    this.worker.postMessage({ pyodide: this.pyodide });
  }

  ask(question) {
    return new Promise((resolve) => {
      this.waiting.get(question.do)?.[1](null);
      this.waiting.set(question.do, [question, resolve]);
      this.next();
    });
  }

  next() {
    if (this.running || !this.waiting.size) return;
    const [sort, [question, resolve]] = this.waiting.entries().next().value;
    this.waiting.delete(sort);
    this.running = { sort, resolve };
    this.worker.postMessage({ question: JSON.stringify(question) });
  }

  finish(answer) {
    const { resolve } = this.running ?? {};
    this.running = null;
    resolve?.(answer);
    this.next();
  }

  // End what is being answered, if it is of this sort, and start Python anew.
  cancel(sort) {
    if (this.running?.sort !== sort) return;
    this.running.resolve(null);
    this.worker.terminate();
    this.start();
    this.next();
  }
}

export class Engine {
  constructor(busy) {
    this.busy = busy; // is told for how long something has been computed, or null
    this.newest = new Map();
    this.pending = new Map(); // what is asked -> since when
  }

  async start() {
    const { engine, pyodide } = await (await fetch("engine.json")).json();
    this.inside = engine === "browser" ? new Browser(pyodide) : new Server();
    setInterval(() => this.tell(), 250);
  }

  tell() {
    const since = Math.min(...this.pending.values());
    this.busy(this.pending.size ? (performance.now() - since) / 1000 : null);
  }

  async ask(sort, parts = {}) {
    const mine = Symbol(sort);
    this.newest.set(sort, mine);
    this.pending.set(mine, performance.now());
    try {
      const answer = await this.inside.ask({ do: sort, ...parts });
      return this.newest.get(sort) === mine ? answer : null;
    } catch (error) {
      return { refused: `no answer: ${error.message}; is zeropp explore still running?`, field: null };
    } finally {
      this.pending.delete(mine);
      this.tell();
    }
  }

  // What is asked of this sort is not wanted any more.
  cancel(sort) {
    this.newest.delete(sort);
    if (this.inside instanceof Browser) this.inside.cancel(sort);
    else this.inside.ask({ do: sort, stop: true });
  }
}
