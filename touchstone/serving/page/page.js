"use strict";
// Texts reach the page through textContent only, so none of them can become markup.

const byId = (id) => document.getElementById(id);
const EXAMPLES = ["Put it into boiling water for six minutes, then cool it at once.", "Eggs are nice.", "Boil it for twenty minutes."];
const SANDBOX_PROMPT = "How do I grow tomatoes?";
const SANDBOX_EXAMPLES = ["You should cut the dry stems, water the roots and loosen the soil.", "You should cut the dry stems and lace the shoes.", "You should lace the shoes and slow the tempo."];
const MOST_EARLIER = 500;
const POLL_MILLISECONDS = 4000;

let state = { models: [], troubles: {} };   // what /v1/models said last
let earlier = [];                           // centred rewards that this page has seen, with the digest that gave them
let seen = [];                              // versions that this page has seen under each alias, latest first
let busy = false;                           // a ranking is under way

function make(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function draw(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const number = (value, digits = 2) => Number(value).toFixed(digits).replace("-", "\u2212");
const percent = (value) => `${(100 * value).toFixed(1)}%`;
const clock = (time) => time.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.error ? value.error.message : `The endpoint answered ${answer.status}.`);
  return value;
}

// --- the form --------------------------------------------------------------------------------------------------------

const fields = () => [...document.querySelectorAll("#completions textarea")];

function numberFields() {
  const all = [...document.querySelectorAll(".completion")];
  all.forEach((box, index) => {
    const label = box.querySelector("label"), field = box.querySelector("textarea"), remove = box.querySelector("button");
    field.id = `completion-${index + 1}`;
    label.htmlFor = field.id;
    label.textContent = `Completion ${index + 1}`;
    remove.setAttribute("aria-label", `Remove completion ${index + 1}`);
    remove.hidden = all.length === 1;
  });
}

function addField(text) {
  const box = make("div", undefined, "completion"), head = make("div", undefined, "head");
  const field = make("textarea"), remove = make("button", "Remove", "plain remove");
  field.rows = 2;
  field.value = text;
  remove.type = "button";
  remove.addEventListener("click", () => {
    const next = box.nextElementSibling || box.previousElementSibling;
    box.remove();
    numberFields();
    next.querySelector("textarea").focus();
  });
  head.append(make("label"), remove);
  box.append(head, field);
  byId("completions").append(box);
  numberFields();
  return field;
}

byId("add").addEventListener("click", () => addField("").focus());

byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  byId("go").setAttribute("aria-disabled", "true");  // not disabled: that would take the focus away
  byId("error").hidden = true;
  byId("result").setAttribute("aria-busy", "true");
  const request = { model: byId("model").value || null, prompt: byId("prompt").value, completions: fields().map((field) => field.value) };
  try {
    const begin = performance.now();
    const answer = await ask("v1/rank", request);
    const ranking = answer.ranking.map((entry) => ({ ...entry.score, index: entry.index, rank: entry.rank, probability: entry.probability }));
    show(request, { ...answer, ranking }, performance.now() - begin);
  } catch (error) {
    byId("error").textContent = error instanceof TypeError ? "The endpoint does not answer." : error.message;
    byId("error").hidden = false;
    byId("result").hidden = true;
  } finally {
    busy = false;
    byId("go").removeAttribute("aria-disabled");
    byId("result").removeAttribute("aria-busy");
  }
});

// --- the result ------------------------------------------------------------------------------------------------------

function measure(name, value, words, from, to, below) {
  const row = make("div", undefined, "measure"), bar = make("div", undefined, "bar"), fill = make("div", undefined, below ? "fill below" : "fill");
  fill.style.left = `${100 * from}%`;
  fill.style.width = `${100 * Math.max(to - from, 0.004)}%`;
  bar.append(fill, make("div", undefined, "middle"));
  bar.setAttribute("aria-hidden", "true");
  row.append(make("span", name), bar, make("span", value, "value"));
  row.title = words;
  return row;
}

function place(entry, rank, text, widest, alone) {
  const item = make("li"), head = make("div"), bars = make("div", undefined, "bars");
  head.append(make("span", `Completion ${entry.index + 1}`, "label"));
  if (entry.truncated) head.append(make("span", "cut", "tag"));
  const share = Math.max(-1, Math.min(1, entry.centered / widest)) / 2;
  bars.append(measure("centred", number(entry.centered), "standard deviations from the mean of the reference texts", 0.5 + Math.min(0, share), 0.5 + Math.max(0, share), share < 0));
  if (!alone) bars.append(measure("vs best", percent(entry.probability), "calibrated probability to beat the completion ranked first", 0, entry.probability, false));
  const body = make("div");
  body.append(head, make("div", text || "(an empty text)", "excerpt"), bars);
  body.append(make("div", `reward ${number(entry.reward, 3)} · percentile ${percent(entry.percentile)} · ${entry.tokens} tokens${entry.spread === undefined ? "" : ` · spread ${number(entry.spread)}`}`, "facts"));
  item.append(make("div", String(rank), "place"), body);
  return item;
}

function show(request, answer, milliseconds) {
  const ranking = answer.ranking, [best, second] = ranking, alone = ranking.length === 1;
  const widest = Math.max(3, ...ranking.map((entry) => Math.abs(entry.centered)));
  byId("ranking").replaceChildren(...ranking.map((entry) => place(entry, entry.rank, request.completions[entry.index], widest, alone)));
  byId("words").textContent = alone
    ? `Completion 1 has a centred reward of ${number(best.centered)}.`
    : `Completion ${best.index + 1} is ranked first, centred reward ${number(best.centered)}; it beats completion ${second.index + 1} with a probability of ${percent(1 - second.probability)}.`;

  const cut = ranking.filter((entry) => entry.truncated).map((entry) => entry.index + 1).sort((a, b) => a - b);
  const limit = served(answer) && served(answer).max_tokens;
  byId("cut").textContent = `Too long${limit ? ` for ${limit} tokens` : ""}: completion ${cut.join(", ")}. The prompt loses its beginning first, then the completion its end.`;
  byId("cut").hidden = cut.length === 0;
  byId("by").textContent = `Answered by ${answer.model}, version ${answer.version}, digest ${answer.digest.slice(0, 16)}, in ${milliseconds.toFixed(0)} ms. ${cut.length ? "" : "Nothing was cut."}`;

  drawReference(answer);
  earlier = [...ranking.map((entry) => ({ centered: entry.centered, digest: answer.digest })), ...earlier].slice(0, MOST_EARLIER);
  writeCalls(request);
  byId("result").hidden = false;
}

const served = (answer) => [...state.models, ...(state.previous || [])].find((model) => model.digest === answer.digest);

// The sealed quantiles as a histogram: between two of them lies the share of the reference texts that their levels say.
function histogram(quantiles, low, high, bins) {
  const share = (value) => {
    const next = quantiles.findIndex(([, reward]) => reward >= value);
    if (next < 0) return 1;
    if (next === 0) return value < quantiles[0][1] ? 0 : quantiles[0][0];
    const [[level, reward], [higher, above]] = [quantiles[next - 1], quantiles[next]];
    return above === reward ? higher : level + (higher - level) * (value - reward) / (above - reward);
  };
  const edges = Array.from({ length: bins + 1 }, (_, index) => low + (high - low) * index / bins);
  return edges.slice(1).map((edge, index) => ({ from: edges[index], share: Math.max(0, share(edge) - share(edges[index])) }));
}

function drawReference(answer) {
  const model = served(answer), quantiles = model && model.centering && model.centering.quantiles;
  byId("reference").hidden = !quantiles;
  if (!quantiles) return;
  const { mean, sd } = model.centering;
  const centred = quantiles.map(([level, reward]) => [level, (reward - mean) / sd]);
  const values = answer.ranking.map((entry) => entry.centered);
  const before = earlier.filter((entry) => entry.digest === answer.digest).map((entry) => entry.centered);
  const low = Math.floor(Math.min(-3, centred[0][1], ...values)), high = Math.ceil(Math.max(3, centred[centred.length - 1][1], ...values));
  const [left, right, top, bottom] = [16, 704, 64, 202];
  const x = (value) => left + (right - left) * (Math.max(low, Math.min(high, value)) - low) / (high - low);
  const bins = histogram(centred, low, high, 60), most = Math.max(...bins.map((bin) => bin.share)), width = (high - low) / 60;
  const y = (share) => bottom - (bottom - top) * share / most;

  const nodes = [];
  const outline = bins.map((bin) => `L${x(bin.from).toFixed(1)} ${y(bin.share).toFixed(1)}L${x(bin.from + width).toFixed(1)} ${y(bin.share).toFixed(1)}`).join("");
  nodes.push(draw("path", { class: "area", d: `M${left} ${bottom}${outline}L${right} ${bottom}Z` }));
  nodes.push(draw("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  const step = high - low > 16 ? 4 : high - low > 8 ? 2 : 1;
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
    nodes.push(draw("line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 }));
    nodes.push(draw("text", { class: "soft", x: x(tick), y: bottom + 30, "text-anchor": "middle" }, String(tick).replace("-", "\u2212")));
  }
  for (const value of before) nodes.push(draw("circle", { class: "earlier", cx: x(value), cy: bottom - 5, r: 3 }));
  // Two rows of numbers, so that neighbours stay readable.
  [...answer.ranking].sort((a, b) => a.centered - b.centered).forEach((entry, index) => {
    const at = x(entry.centered), up = index % 2 ? 24 : 52;
    nodes.push(draw("line", { class: "mark", x1: at, x2: at, y1: up + 4, y2: bottom }));
    nodes.push(draw("circle", { class: "dot", cx: at, cy: bottom, r: 5 }));
    nodes.push(draw("text", { x: at, y: up, "text-anchor": "middle" }, String(entry.index + 1)));
  });
  byId("chart").replaceChildren(...nodes);
  const texts = `${model.centering.n} reference texts by centred reward`;
  const places = answer.ranking.map((entry) => `completion ${entry.index + 1} above ${percent(entry.percentile)} of them`).join(", ");
  byId("chart-words").textContent = `${texts}; ${places}. ${before.length ? `Dots: ${before.length} earlier scores of this page.` : ""}`;
}

// --- lines to copy ---------------------------------------------------------------------------------------------------

const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const inPython = (text) => JSON.stringify(text);  // every escape of JSON means the same in a Python string

function writeCalls(request) {
  const url = new URL("v1/rank", document.baseURI), root = new URL(".", document.baseURI).href.replace(/\/$/, "");
  // An endpoint that others can reach asks for a key.
  const open = ["127.0.0.1", "localhost", "[::1]"].includes(url.hostname);
  const key = open ? "" : ` -H "Authorization: Bearer $TOUCHSTONE_API_KEY"`;
  byId("curl").textContent = `curl -sS ${inShell(url.href)} -H 'Content-Type: application/json'${key} \\\n  --data-raw ${inShell(JSON.stringify(request))}`;
  byId("python").textContent = [
    "from touchstone.client import Client",
    "",
    `with Client(${inPython(root)}) as client:${open ? "" : "  # the key: TOUCHSTONE_API_KEY"}`,
    "    reply = client.rank(",
    `        ${inPython(request.prompt)},`,
    "        [",
    ...request.completions.map((text) => `            ${inPython(text)},`),
    "        ],",
    ...(request.model ? [`        model=${inPython(request.model)},`] : []),
    "    )",
    "for entry in reply.ranking:",
    "    print(entry.index, entry.score.centered, entry.probability)",
  ].join("\n");
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      byId("copied").textContent = "Copied.";
    } catch {  // no clipboard without https or loopback: what is selected can be copied by hand
      getSelection().selectAllChildren(source);
      byId("copied").textContent = "Selected; copy it with Ctrl+C.";
    }
  });
}

// --- what is served --------------------------------------------------------------------------------------------------

function describe(model) {
  const box = make("div", undefined, "model"), facts = make("dl"), centering = model.centering || {};
  box.append(make("h3", model.id));
  for (const [name, value] of [
    ["version", model.version],
    ["digest", model.digest],
    ["reference texts", centering.n && `${centering.n} (${centering.n_prompts} prompts)`],
    ["mean reward", centering.n && `${number(centering.mean, 4)} (standard error ${number(centering.se_mean, 4)})`],
    ["standard deviation", centering.n && number(centering.sd, 4)],
    ["temperature", model.temperature && number(model.temperature, 4)],
    ["noise floor", model.noise_floor !== undefined && number(model.noise_floor, 4)],
    ["precision", model.precision],
    ["longest text", model.max_tokens && `${model.max_tokens} tokens`],
  ]) if (value) facts.append(make("dt", name), make("dd", String(value)));
  box.append(facts);
  return box;
}

function noteVersions() {
  for (const model of state.models) {
    const alias = model.id.split("@")[1] || model.id, last = seen.find((entry) => entry.alias === alias);
    if (!last || last.version !== model.version) seen.unshift({ since: new Date(), alias, version: model.version, digest: model.digest, first: !last });
  }
}

function showHistory() {
  const rows = state.history
    ? state.history.map((entry) => [clock(new Date(entry.since)), entry.alias, entry.version, entry.digest])
    : [
      ...seen.map((entry) => [entry.first ? "this page was opened" : clock(entry.since), entry.alias, entry.version, entry.digest]),
      ...(state.previous || []).map((model) => ["kept for a rollback", "previous", model.version, model.digest]),
    ];
  byId("history").replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    row.append(...cells.map((cell, index) => make("td", index === 3 ? String(cell).slice(0, 16) : String(cell))));
    return row;
  }));
  byId("history-words").textContent = state.history ? "Since this endpoint was started." : "As seen since this page was opened; it looks every few seconds.";
}

let shown = "";
async function refresh() {
  if (document.hidden && shown) return;
  try {
    const now = await ask("v1/models"), text = JSON.stringify(now);
    if (text === shown) return;
    [state, shown] = [now, text];
    byId("name").textContent = state.name;
    byId("models").replaceChildren(...state.models.map(describe));
    const chosen = byId("model").value;
    byId("model").replaceChildren(...state.models.map((model) => make("option", model.id)));
    if (state.models.some((model) => model.id === chosen)) byId("model").value = chosen;
    sayWhetherSimulated();
    noteVersions();
    showHistory();
    trouble(Object.entries(state.troubles || {}).map(([alias, words]) => `${alias}: ${words}`).join(" "));
  } catch (error) {
    trouble(error instanceof TypeError ? "The endpoint does not answer." : error.message);
    shown = "";
  }
}

// A model of the sandbox is shown that world's own texts, as long as nobody has written others.
function sayWhetherSimulated() {
  const simulated = state.models.length > 0 && state.models.every((model) => model.simulated);
  byId("simulated").hidden = !simulated;
  const untouched = byId("prompt").value === byId("prompt").defaultValue && fields().every((field, index) => field.value === EXAMPLES[index]);
  if (!simulated || !untouched) return;
  byId("prompt").value = SANDBOX_PROMPT;
  fields().forEach((field, index) => { field.value = SANDBOX_EXAMPLES[index]; });
}

function trouble(words) {
  byId("troubles").textContent = words;
  byId("troubles").hidden = !words;
}

EXAMPLES.forEach(addField);
refresh();
setInterval(refresh, POLL_MILLISECONDS);
