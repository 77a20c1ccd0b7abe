// The fields of both forms: what they are called here, and how far their sliders go. What they mean
// and which values they take, Python knows.

const HELP = { optional: "Empty: the schedule's own" };

const COSTS = ["F", "B", "W"]; // one by one where they are the same for all stages

// The fields of the setting `costs`: F, B and W, or one for all where stages have their own.
export function costsOf(costs) {
  const parts = costs.includes(";") ? [] : costs.split(",");
  const own = costs.includes(";") || parts.length !== COSTS.length ? costs : "";
  return { ...Object.fromEntries(COSTS.map((name, index) => [name, parts[index]])), costs: own };
}

// `costs` with another F, B or W; null if the field is no such.
export function withCost(costs, name, value) {
  if (!COSTS.includes(name)) return null;
  return COSTS.map((one) => (one === name ? value ?? "" : costsOf(costs)[one] ?? 1)).join(",");
}

export function groups(look) {
  const named = look.schedules.map(({ name }) => name);
  return [
    ["Schedule", [
      { name: "placement", label: "Placement", choices: ["loop", "vee"], help: "Stages go round and round, or there and back" },
      { name: "schedule", label: "Schedule", choices: named },
      { name: "unit_size", label: "U, unit", range: [0, 32], optional: true, placeholder: "P", help: HELP.optional },
      { name: "seam", label: "Seam", choices: [["", "default"], "carry", "strict", "eager", "drain"] },
      { name: "slots", label: "Slots of memory", range: [0, 64], optional: true, placeholder: "default", help: "Most activations of one chunk and micro-batch on a rank" },
      { name: "refine", label: "Refine", kind: "flag", help: "Improve the order for these costs" },
    ]],
    ["Sizes", [
      { name: "pp", label: "P, ranks", range: [1, 16] },
      { name: "chunks", label: "V, chunks", range: [1, 8] },
      { name: "microbatches", label: "B, micro-batches", range: [1, 64] },
      { name: "limit", label: "Memory limit", range: [0, 32], optional: true, placeholder: "none", help: "In micro-batches through a whole rank; peers are made for it" },
    ]],
    ["Costs, through a whole rank", [
      ...COSTS.map((name) => ({ name, label: name, range: [0.1, 4, 0.1] })),
      { name: "costs", label: "of each stage", kind: "text", placeholder: "F,B,W;F,B,W;…", help: "F,B,W of each stage, with semicolons between stages: 1,1,1;2,2,2;..." },
      { name: "p2p", label: "Latency", range: [0, 2, 0.05] },
      { name: "transfer", label: "Transfer", range: [0, 2, 0.05] },
      { name: "host", label: "Host", range: [0, 0.5, 0.01] },
    ]],
    ["Sharding", [
      { name: "shard", label: "Gather per", choices: [["", "not sharded"], ...look.policies] },
      { name: "max_resident", label: "Resident", range: [1, 8] },
      { name: "prefetch", label: "Prefetch", range: [0, 16], placeholder: "soon", optional: true },
      { name: "gather", label: "Gather", range: [0, 4, 0.05] },
      { name: "reduce", label: "Reduce", range: [0, 4, 0.05] },
    ]],
    ["Beside it", [
      { name: "compare", label: "Peers, on the same axis", kind: "many", choices: look.schedules.map(({ name }) => name) },
    ]],
    ["In a saved program", [
      { name: "recompute", label: "Recompute", choices: [["", "as trained"], "none", "selective", "full"] },
    ]],
  ];
}

export function planGroups(look) {
  const model = ["layers", "hidden", "heads", "kv_heads", "ffn", "vocab_size", "seq_len"];
  return [
    ["Model", [
      { name: "model", label: "Named size", choices: look.models },
      ...model.map((name) => ({ name, label: name.replace("_", " "), placeholder: "as named" })),
    ]],
    ["Cluster", [
      { name: "gpus", label: "GPUs" },
      { name: "gpus_per_node", label: "GPUs of a host", placeholder: "8" },
      { name: "gpu", label: "GPU", choices: look.gpus },
      { name: "memory", label: "GiB that a plan may use", placeholder: "92 %" },
      { name: "inside", label: "Link in a host", kind: "text", placeholder: "nvlink, pcie4, GB/s" },
      { name: "between", label: "Network card", kind: "text", placeholder: "ib-200, eth-100, GB/s" },
      { name: "cards", label: "Cards of a host", placeholder: "default" },
    ]],
    ["Batch", [{ name: "global_batch", label: "Sequences in a step" }]],
  ];
}
