// The browser's own Python: loads the half of zeropp without torch, then answers one by one.

let answer = null;

async function load(at) {
  const base = new URL(at, self.location.href).href;
  const { loadPyodide } = await import(`${base}pyodide.mjs`);
  const python = await loadPyodide({ indexURL: base });
  const bundle = await (await fetch(new URL("zeropp.zip", self.location.href))).arrayBuffer();
  python.unpackArchive(bundle, "zip", { extractDir: "/zeropp" });
  python.runPython("import sys; sys.path.insert(0, '/zeropp')");
  return python.pyimport("zeropp.explore.answers").answer_json;
}

self.onmessage = async ({ data }) => {
  if (data.pyodide) {
    answer = load(data.pyodide);
    answer.catch(() => {}); // told with the first question
    return;
  }
  try {
    self.postMessage(JSON.parse((await answer)(data.question)));
  } catch (error) {
    self.postMessage({ refused: `the browser's Python: ${String(error).trim().split("\n").pop()}`, field: null });
  }
};
