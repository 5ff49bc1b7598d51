// The dashboard: views over /v1, kept current by its event stream. What comes from users is only ever set as text.

const $ = (id) => document.getElementById(id);
const view = $("view");

// ---- elements

// h("td", {class: "n"}, "text", node, [more]); on… are listeners, everything else attributes
function h(tag, attrs, ...children) {
  const svg = ["svg", "rect", "text", "polyline", "title"].includes(tag);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
  return e;
}

// The page is these; what is false or null is left out.
const show = (...children) => view.replaceChildren(...children.filter(Boolean));

function table(columns, rows) {
  if (!rows.length) return h("p", {class: "dim"}, "None.");
  return h("table", {}, h("thead", {}, h("tr", {}, columns.map((c) => h("th", {class: c.startsWith(">") && "n", scope: "col"}, c.replace(">", ""))))),
    h("tbody", {}, rows.map((r) => h("tr", {"data-href": r.href}, r.cells.map((c, i) => h("td", {class: columns[i].startsWith(">") && "n"}, c))))));
}

const facts = (pairs) => h("dl", {class: "facts"}, pairs.filter(Boolean).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]));
const tile = (value, what, kind) => h("div", {class: "tile"}, h("b", {class: kind}, value), h("span", {}, what));
const panel = (title, ...body) => h("section", {}, h("h2", {}, title), h("div", {class: "panel"}, ...body));

// ---- for people

function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  for (const [least, unit, name] of [[172800000, 86400000, "d"], [7200000, 3600000, "h"], [120000, 60000, "min"], [10000, 1000, "s"]])
    if (ms >= least) return `${Math.floor(ms / unit)} ${name}`;
  return `${Math.round(ms)} ms`;
}
const ago = (at) => (at ? duration(Math.max(0, Date.now() - at)) : "–");
function bytes(n) {
  let i = 0;
  for (; n >= 1000 && i < 4; i++) n /= 1000;
  return `${i ? n.toFixed(1) : n} ${["B", "kB", "MB", "GB", "TB"][i]}`;
}
const verdictKind = {success: "ok", failed: "bad", timed_out: "warn", memory: "warn", cancelled: "dim", rejected: "bad", infrastructure: "bad"};
function stateOf(job) {
  if (job.verdict) return h("span", {class: `state ${verdictKind[job.verdict] ?? ""}`}, job.verdict.replace("_", " "));
  return h("span", {class: `state ${job.state === "running" ? "live" : ""}`}, job.cancelling ? "cancelling" : job.state);
}
const jobLink = (id) => h("a", {href: `#/job/${id}`}, id);

// ---- the service

let key = sessionStorage.getItem("key") ?? "";
class Refused extends Error {
  constructor(problem, status) {
    super([problem.detail ?? `answer ${status}`, ...(problem.errors ?? []).map((e) => `${e.pointer}: ${e.detail}`)].join(" "));
    this.status = status;
  }
}

async function ask(method, path, {body, signal, headers, raw} = {}) {
  const answer = await fetch(path, {method, signal, cache: "no-store",
    headers: {Authorization: `Bearer ${key}`, ...(body === undefined ? {} : {"Content-Type": "application/json"}), ...headers},
    body: body === undefined ? undefined : JSON.stringify(body)});
  if (!answer.ok) throw new Refused(await answer.json().catch(() => ({})), answer.status);
  return raw ? answer : answer.status === 204 || answer.status === 202 && !answer.headers.get("Content-Type")?.includes("json") ? null : answer.json();
}
const get = (path, signal) => ask("GET", path, {signal});

// A browser opens six connections to a service, for all its tabs and the pages it keeps for the way back: a page that
// nobody sees must not hold one.
async function seen() {
  while (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, {once: true}));
}

// Server-Sent Events by fetch, since an EventSource sends no key. Calls take(event, data) until it returns true, the signal
// aborts, or the server refuses; what breaks, and what was hidden, is taken up from the last id.
async function follow(path, signal, take) {
  let last = "", wait = 250;
  for (;;) {
    await seen();
    if (signal.aborted) return;
    const request = new AbortController(), over = new AbortController();
    signal.addEventListener("abort", () => request.abort(), {signal: over.signal});
    document.addEventListener("visibilitychange", () => { if (document.hidden) request.abort(); }, {signal: over.signal});
    try {
      const answer = await ask("GET", path, {signal: request.signal, raw: true, headers: last ? {"Last-Event-ID": last} : {}});
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "", event = "message", data = [];
      for (;;) {
        const {done, value} = await reader.read();
        if (done) break;
        wait = 250;
        text += value;
        const lines = text.split("\n");
        text = lines.pop();
        for (const line of lines) {
          const [, name, content] = line.match(/^([^:]*):? ?(.*?)\r?$/) ?? [];
          if (line === "" || line === "\r") {
            if (data.length && take(event, data.join("\n"))) return reader.cancel();
            [event, data] = ["message", []];
          } else if (name === "event") event = content;
          else if (name === "id") last = content;
          else if (name === "data") data.push(content);
        }
      }
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Refused && e.status < 500 && e.status !== 429) throw e;
    } finally {
      over.abort();
    }
    if (!document.hidden) await new Promise((go) => setTimeout(go, wait * (0.5 + Math.random() / 2)));
    wait = Math.min(wait * 2, 5000);
    if (signal.aborted) return;
  }
}

// ---- events of the whole: each view says what it wants to hear; at most twice a second

let views = new AbortController();
const hear = {kinds: [], again: null, due: false};

function changed(kind) {
  if (!hear.again || hear.due || !(hear.kinds.includes(kind) || kind === "gap")) return;
  hear.due = true;
  setTimeout(() => { hear.due = false; hear.again?.(); }, 500);
}

let listening = null;
function listen() {
  listening?.abort();
  listening = new AbortController();
  const {signal} = listening;
  follow("/v1/events", signal, (event) => { link(true); changed(event); }).catch((e) => link(false, e.message));
}

function link(up, why) {
  $("link").className = up ? "" : "bad";
  $("link").textContent = up ? "live" : why ?? "no connection";
}

let noteTimer;
function note(text) {
  $("note").textContent = text;
  $("note").hidden = false;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => { $("note").hidden = true; }, 6000);
}

async function act(run, button) {
  if (button) button.disabled = true;
  try {
    await run();
    hear.again?.();
  } catch (e) {
    note(e.message);
  } finally {
    if (button) button.disabled = false;
  }
}
const button = (text, run, more) => h("button", {type: "button", ...more, onclick: (e) => act(run, e.currentTarget)}, text);

// ---- overview

const samples = []; // [time, finished so far]

function sparkline(points) {
  if (points.length < 2) return h("p", {class: "dim"}, "The line begins with the next figures.");
  const width = 600, height = 60, most = Math.max(1, ...points);
  return h("svg", {viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": `jobs finished a minute, most ${most}`},
    h("polyline", {class: "spark", points: points.map((p, i) => `${(i * width) / (points.length - 1)},${height - (p * (height - 4)) / most}`).join(" ")}),
    h("text", {x: 0, y: height + 12}, `most ${most} a minute`));
}

const STATES = ["queued", "assigned", "preparing", "running", "collecting"];
function quantile(state, part) {
  const bucket = state.buckets.find((b) => b.count >= state.count * part);
  return bucket ? `≤ ${duration(bucket.le_ms)}` : "more";
}

// How the mean life of a job divides, each state where the one before ends.
function waterfall(states) {
  const known = STATES.filter((s) => states[s]?.count).map((s) => [s, states[s].sum_ms / states[s].count, states[s]]);
  const total = known.reduce((sum, [, mean]) => sum + mean, 0);
  if (!total) return h("p", {class: "dim"}, "No job has finished yet.");
  let at = 0;
  return h("svg", {viewBox: `0 0 700 ${known.length * 24}`, role: "img", "aria-label": "mean time in each state"}, known.map(([name, mean, s], i) => {
    const x = 90 + (at * 300) / total, width = Math.max(1, (mean * 300) / total);
    at += mean;
    return [h("text", {x: 0, y: i * 24 + 15}, name), h("rect", {class: name[0], x, y: i * 24 + 4, width, height: 14, rx: 2}),
      h("text", {x: 400, y: i * 24 + 15}, `mean ${duration(mean)}, half ${quantile(s, 0.5)}, 95 % ${quantile(s, 0.95)}`)];
  }));
}

async function overview(signal) {
  const [s, vmms] = await Promise.all([get("/v1/stats", signal), get("/v1/vmms", signal)]);
  samples.push(s.finished_60s);
  if (samples.length > 120) samples.shift();
  const out = vmms.vmms.filter((v) => v.state !== "down" && (v.state !== "up" || v.drain));
  show(h("h1", {}, "Overview"),
    h("div", {class: "tiles"}, tile(s.live, "live jobs"), tile(s.queued, "queued"), tile(s.delayed, "to be tried again", s.delayed && "warn"),
      tile(duration(s.oldest_queued_ms), "oldest live job"), tile(`${s.busy}/${s.slots}`, "slots busy"), tile(s.machines_idle, "warm machines"),
      tile(s.finished_60s, "finished in a minute"), tile(s.vmms_up, "vmms up", s.vmms_up ? null : "bad"), tile(s.callbacks_pending, "callbacks wait")),
    out.length ? panel("Out of service", table(["vmm", "state", "why"], out.map((v) => ({cells: [v.name, v.drain ? "drains" : v.state, v.reason ?? "–"]})))) : null,
    h("div", {class: "split"}, panel("Throughput", sparkline(samples)), panel("Time in each state", waterfall(s.state_ms))),
    panel("Counters", facts(Object.entries(s.counters).map(([k, v]) => [k.replace(/^v_/, "verdict ").replaceAll("_", " "), v]))));
}

// ---- jobs

const filter = {state: "live", lab: ""};

async function jobs(signal) {
  const query = new URLSearchParams({limit: 100});
  for (const [k, v] of Object.entries(filter)) if (v) query.set(k, v);
  const {jobs: list, next} = await get(`/v1/jobs?${query}`, signal);
  const old = view.querySelector("#jobs");
  const rows = h("div", {class: "panel", id: "jobs"}, table([">job", "state", ">since", ">tries", "image", "vmm", "lab", "name"], list.map((j) => ({href: `#/job/${j.id}`,
    cells: [jobLink(j.id), stateOf(j), ago(j.finished_ms ?? j.state_since_ms ?? j.accepted_ms), j.attempts, j.image, j.vmm ?? "–", j.lab, j.name]}))),
    next ? h("p", {class: "dim"}, "There are more; filter to see them.") : null);
  if (old) return old.replaceWith(rows);
  const again = () => hear.again?.();
  show(h("h1", {}, "Jobs"), h("div", {class: "row"},
    h("label", {}, "State ", h("select", {onchange: (e) => { filter.state = e.target.value; again(); }},
      [["live", "live"], ...STATES.map((s) => [s, s]), ["finished", "finished"], ["", "all"]].map(([v, t]) => h("option", {value: v, selected: filter.state === v}, t)))),
    h("label", {}, "Lab ", h("input", {id: "filter", value: filter.lab, size: 20, onchange: (e) => { filter.lab = e.target.value; again(); }}))), rows);
}

// ---- one job

function traceBars(job) {
  const steps = job.trace, begin = steps[0]?.at_ms ?? 0, end = Math.max(...steps.map((s) => s.at_ms), begin + 1);
  const colour = {accepted: "q", dispatched: "a", machine: "p", waiting: "p", ready: "p", copied: "p", executed: "r", output: "c", final: "c"};
  return h("svg", {viewBox: `0 0 600 ${steps.length * 20 + 4}`, role: "img", "aria-label": "trace of the job"}, steps.map((s, i) => {
    const from = i ? steps[i - 1].at_ms : s.at_ms, x = ((from - begin) * 200) / (end - begin), width = Math.max(2, ((s.at_ms - from) * 200) / (end - begin));
    return [h("rect", {class: colour[s.code] ?? "q", x, y: i * 20 + 4, width, height: 12, rx: 2}, h("title", {}, `${s.code}: ${s.at_ms - from} ms`)),
      h("text", {x: 212, y: i * 20 + 14}, `+${((s.at_ms - begin) / 1000).toFixed(3)} s  ${s.code} ${s.text}`)];
  }));
}

const LOG_MAX = 1000000;
function logPane(id, signal) {
  const pre = h("pre", {class: "log", tabindex: 0, "aria-label": "output", id: "log"});
  let decoder = new TextDecoder(), length = 0;
  follow(`/v1/jobs/${id}/output/stream`, signal, (event, data) => {
    if (event === "reset") {
      pre.replaceChildren(length ? "— its worker was lost; from the beginning —\n" : "");
      decoder = new TextDecoder();
      length = 0;
    } else if (event === "output") {
      const bottom = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
      const piece = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      length += piece.length;
      if (length <= LOG_MAX) pre.append(decoder.decode(piece, {stream: true}));
      else if (length - piece.length <= LOG_MAX) pre.append("\n— more than a page should hold; the rest is in the download —\n");
      if (bottom) pre.scrollTop = pre.scrollHeight;
    }
    return event === "end";
  }).catch((e) => pre.append(`\n— ${e.message} —\n`));
  return pre;
}

async function download(path, name) {
  const url = URL.createObjectURL(await (await ask("GET", path, {raw: true})).blob());
  h("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

const whyPanel = (w) => panel("Why it waits", h("p", {}, w.detail), facts([
  w.position !== null && ["before it", `${w.position} jobs, ${w.placement_position} of the same kind`],
  w.estimate_ms !== null && ["starts in", `about ${duration(w.estimate_ms)}`]]),
  table(["vmm", "state", ">running", ">slots", "image", "labels"], w.vmms.map((v) => ({cells: [v.name, v.drain ? "drains" : v.state, v.running, v.slots, v.has_image ? "yes" : "no", v.has_labels ? "yes" : "no"]}))));

// a member of limits or usage, whose unit stands at the end of its name
function amount([name, value]) {
  const [, what, unit] = name.match(/^(.*?)(?:_(s|ms|kb|mb|bytes))?$/);
  const text = unit === "bytes" ? bytes(value) : unit === "kb" ? bytes(value * 1024) : unit === "mb" ? `${value} MB` : unit ? `${value} ${unit}` : value;
  return `${what.replaceAll("_", " ")} ${text}`;
}

function jobFacts(j) {
  const limits = Object.entries(j.limits).filter(([, v]) => v).map(amount).join(", ");
  const usage = j.usage && Object.entries(j.usage).filter(([, v]) => v !== null).map(amount).join(", ");
  return facts([["state", stateOf(j)], ["lab", j.lab], ["image", j.image], ["vmm", j.vmm ?? "–"], j.machine && ["machine", j.machine.name],
    ["tries", `${j.attempts}, ${j.charged} spoilt by infrastructure`], ["limits", limits || "defaults"], usage && ["usage", usage], ["network", j.network ? "yes" : "no"],
    ["output", `${bytes(j.output.bytes)}${j.output.complete ? "" : " so far"}`],
    j.callback && ["callback", `${j.callback.state}, ${j.callback.tries} tries${j.callback.last ? `, ${j.callback.last}` : ""}`],
    ["files", j.files.map((f) => h("div", {}, `${f.name} as ${f.dest}, ${bytes(f.size)}`))]]);
}

function jobButtons(j) {
  const path = `/v1/jobs/${j.id}`;
  return h("div", {class: "row"},
    j.state !== "finished" ? button("Cancel", () => ask("POST", `${path}/cancel`), {class: "danger", id: "cancel"}) : null,
    j.state === "finished" ? button("Run again", async () => { location.hash = `#/job/${(await ask("POST", `${path}/requeue`)).id}`; }, {id: "requeue"}) : null,
    j.state === "finished" ? button("Download feedback", () => download(`${path}/feedback`, j.output_file)) : null,
    j.callback && j.state === "finished" ? button("Call back again", () => ask("POST", `${path}/callback/retry`)) : null);
}

async function job(signal, id) {
  const j = await get(`/v1/jobs/${id}`, signal);
  const why = ["queued"].includes(j.state) ? await get(`/v1/jobs/${id}/why`, signal) : null;
  const log = view.querySelector("#log[data-job]") ?? logPane(id, signal);
  log.dataset.job = id;
  show(h("h1", {}, `Job ${j.id} `, h("span", {class: "dim"}, j.name)), jobButtons(j), why?.waiting && whyPanel(why),
    h("div", {class: "split"}, panel("Facts", jobFacts(j)), panel("Trace", traceBars(j))), panel("Output", log));
}

// ---- machines

async function machines(signal) {
  const [v, m, p] = await Promise.all(["vmms", "machines", "pools"].map((what) => get(`/v1/${what}`, signal)));
  const act_ = (name, what) => ask("POST", `/v1/vmms/${encodeURIComponent(name)}/${what}`);
  const wish = async (pool) => {
    const n = prompt(`Warm machines of ${pool.image} (empty: the default)`, pool.wish?.machines ?? pool.target);
    if (n === null) return;
    const path = `/v1/pools/${encodeURIComponent(pool.image)}`;
    await (n.trim() === "" ? ask("DELETE", path) : ask("PUT", path, {body: {machines: Number(n)}}));
  };
  show(h("h1", {}, "Machines"),
    panel("Hosts", table(["vmm", "state", "driver", ">running", ">slots", "labels", "version", "why", ""], v.vmms.map((x) => ({cells: [x.name,
      h("span", {class: x.state !== "up" ? "bad" : x.drain ? "warn" : "ok"}, x.drain ? "drains" : x.state), x.driver, x.running, x.slots, x.labels.join(", ") || "–", x.version, x.reason ?? "–",
      x.drain ? button("Resume", () => act_(x.name, "resume")) : button("Drain", () => act_(x.name, "drain"))]})))),
    panel("Warm pools", table(["image", ">wished", ">target", ">total", ">idle", ""], p.pools.map((x) => ({cells: [x.image, x.wish?.machines ?? "–", x.target, x.total, x.idle, button("Wish", () => wish(x))]})))),
    panel("Machines", table([">id", "vmm", "state", ">job", "image", "name"], m.machines.map((x) => ({cells: [x.id, x.vmm, x.state, x.job ? jobLink(x.job) : "–", x.image ?? "–", x.name ?? "–"]})))));
}

// ---- images

function upload(file, name, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `/v1/images/${encodeURIComponent(name)}`);
    request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.setRequestHeader("Content-Type", "application/x-tar");
    request.upload.onprogress = (e) => { progress.value = e.loaded / e.total; };
    request.onerror = () => failed(new Error("the connection broke"));
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* its status says enough */ }
      if (request.status < 300) done(); else failed(new Refused(answer, request.status));
    };
    request.send(file);
  });
}

async function images(signal) {
  const {images: list} = await get("/v1/images", signal);
  const rows = h("div", {class: "panel", id: "images"}, table(["image", "of", "digest", "vmms", "state", ""], list.map((i) => ({cells: [i.name, i.shared ? "all" : "tenant", (i.digests[0] ?? "–").replace("sha256:", "").slice(0, 12),
    i.vmms.join(", ") || "none", i.build && i.build.state !== "done" ? `${i.build.state} ${i.build.detail ?? ""}` : i.digests.length ? "there" : "no vmm has it",
    button("Remove", async () => { if (confirm(`Remove ${i.name}?`)) await ask("DELETE", `/v1/images/${encodeURIComponent(i.name)}?shared=${i.shared}`); }, {class: "danger"})]}))));
  const old = view.querySelector("#images");
  if (old) return old.replaceWith(rows);
  const file = h("input", {type: "file", "aria-label": "archive"}), name = h("input", {placeholder: "name:tag", "aria-label": "name"}), progress = h("progress", {value: 0, hidden: true});
  show(h("h1", {}, "Images"), h("div", {class: "row"}, file, name, button("Upload", async () => {
    if (!file.files[0] || !name.value) throw new Error("Choose an archive (docker save) and a name.");
    progress.hidden = false;
    await upload(file.files[0], name.value, progress).finally(() => { progress.hidden = true; });
  }), progress), rows);
}

// ---- callbacks

async function callbacks(signal) {
  const {callbacks: list, truncated} = await get("/v1/callbacks", signal);
  show(h("h1", {}, "Callbacks"), h("div", {class: "panel"}, table([">job", "state", ">tries", "last answer", "next try", ""], list.map((c) => ({href: `#/job/${c.id}`, cells: [jobLink(c.id),
    h("span", {class: c.state === "failed" ? "bad" : "warn"}, c.state), c.tries, c.last ?? "–", c.due_ms ? new Date(c.due_ms).toLocaleTimeString() : "–",
    button("Retry", () => ask("POST", `/v1/jobs/${c.id}/callback/retry`))]}))), truncated ? h("p", {class: "dim"}, "And more.") : null));
}

// ---- where we are

const routes = [
  {path: /^#?\/?$/, name: "Overview", href: "#/", key: "o", show: overview, hears: ["job", "vmm", "pool"], every: 2000},
  {path: /^#\/jobs$/, name: "Jobs", href: "#/jobs", key: "q", show: jobs, hears: ["job"], every: 5000},
  {path: /^#\/job\/(\d+)$/, href: "#/jobs", show: job, hears: ["job"]},
  {path: /^#\/machines$/, name: "Machines", href: "#/machines", key: "m", show: machines, hears: ["job", "vmm", "pool"]},
  {path: /^#\/images$/, name: "Images", href: "#/images", key: "i", show: images, hears: ["image", "vmm"]},
  {path: /^#\/callbacks$/, name: "Callbacks", href: "#/callbacks", key: "c", show: callbacks, hears: ["job"], every: 5000},
];

function askKey(text) {
  $("link").textContent = "";
  listening?.abort();
  views.abort(); // or the view's timer would ask again and empty the form
  hear.again = null;
  const input = h("input", {type: "password", autocomplete: "current-password", "aria-label": "key", id: "key"});
  $("leave").hidden = true;
  $("nav").replaceChildren();
  show(h("form", {class: "key panel", onsubmit: (e) => { e.preventDefault(); key = input.value; sessionStorage.setItem("key", key); start(); }},
    h("h1", {}, "Which key?"), h("p", {class: text ? "bad" : "dim"}, text ?? "That of your frontend, as in the configuration. It stays in this tab."), input, h("button", {}, "Go")));
  input.focus();
}

function go() {
  views.abort();
  views = new AbortController();
  const {signal} = views;
  const hash = location.hash || "#/";
  const route = routes.find((r) => r.path.test(hash)) ?? routes[0];
  const args = (hash.match(route.path) ?? []).slice(1);
  for (const a of $("nav").children) a.toggleAttribute("aria-current", false);
  $("nav").querySelector(`[href="${route.href}"]`)?.setAttribute("aria-current", "page");
  show(h("p", {class: "dim"}, "…"));
  let running = false;
  const again = async () => {
    if (running || signal.aborted) return;
    running = true;
    try {
      await route.show(signal, ...args);
      link(true);
    } catch (e) {
      if (signal.aborted) return;
      if (e.status === 401) askKey("The service does not know that key.");
      else if (e.status === 404) show(h("h1", {}, "Not here"), h("p", {}, e.message));
      else {
        link(false, e.message);
        if (!(e instanceof Refused) || e.status >= 500) setTimeout(again, 1000);
      }
    } finally {
      running = false;
    }
  };
  Object.assign(hear, {kinds: route.hears, again});
  if (route.every) {
    const timer = setInterval(again, route.every); // ages grow without an event
    signal.addEventListener("abort", () => clearInterval(timer));
  }
  again();
  view.focus({preventScroll: true});
}

function start() {
  if (!key) return askKey();
  $("leave").hidden = false;
  $("nav").replaceChildren(...routes.filter((r) => r.name).map((r) => h("a", {href: r.href, title: `g ${r.key}`}, r.name)));
  listen();
  go();
}

// ---- keys

function select(step) {
  const rows = [...view.querySelectorAll("tr[data-href]")];
  const at = rows.findIndex((r) => r.getAttribute("aria-selected"));
  const next = rows[Math.max(0, Math.min(rows.length - 1, at + step))];
  rows[at]?.removeAttribute("aria-selected");
  next?.setAttribute("aria-selected", "true");
  next?.scrollIntoView({block: "nearest"});
}

const shortcuts = {
  j: ["next row", () => select(1)],
  k: ["row before", () => select(-1)],
  Enter: ["open the row", () => { const r = view.querySelector("tr[aria-selected]"); if (r) location.hash = r.dataset.href; }],
  "/": ["filter", () => $("filter")?.focus()],
  t: ["dark or light", () => theme()],
  "?": ["this list", () => $("help").showModal()],
};
let afterG = 0;
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, select, textarea, dialog")) return;
  if (e.key === "Enter" && e.target.closest("a, button")) return;
  if (Date.now() - afterG < 1000) {
    const to = routes.find((r) => r.key === e.key);
    afterG = 0;
    if (to) location.hash = to.href;
  } else if (e.key === "g") {
    afterG = Date.now();
  } else if (shortcuts[e.key]) {
    e.preventDefault();
    shortcuts[e.key][1]();
  }
});
$("keys").append(...[...routes.filter((r) => r.key).map((r) => [`g ${r.key}`, r.name]), ...Object.entries(shortcuts).map(([k, [text]]) => [k, text])]
  .flatMap(([k, text]) => [h("dt", {}, h("kbd", {}, k)), h("dd", {}, text)]));

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}
if (localStorage.getItem("theme")) document.documentElement.dataset.theme = localStorage.getItem("theme");

$("theme").addEventListener("click", theme);
$("leave").addEventListener("click", () => { sessionStorage.removeItem("key"); key = ""; listening?.abort(); views.abort(); askKey(); });
addEventListener("hashchange", go);
start();
