// The page for people: a picture goes to /v1/samples and /v1/certificates, and what comes back is shown as it comes.

const at = id => document.getElementById(id);
const show = (id, shown = true) => { at(id).hidden = !shown; };
let running = null;

async function ask(path, body, signal) {
  const headers = {"Content-Type": "application/json"};
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const sent = body && {method: "POST", body: JSON.stringify(body)};
  const answer = await fetch(path, {headers, signal, ...sent});
  if (answer.ok) return answer;
  if (answer.status === 401) show("keys");
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `HTTP ${answer.status}`);
}

// Yields [name, data] of every server-sent event of an answer.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value.replaceAll("\r\n", "\n");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const of = field => lines.filter(l => l.startsWith(field)).map(l => l.slice(field.length).trim()).join("\n");
      if (of("data:")) yield [of("event:"), JSON.parse(of("data:"))];
    }
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the file cannot be read; choose another one"));
    reader.readAsDataURL(file);
  });
}

function say(text) {
  at("message").textContent = text;
  show("message", Boolean(text));
}

// Shows noise and purifier at work.
async function look(request, sigma, signal) {
  const seen = await (await ask("v1/samples", request, signal)).json();
  for (const name of ["grid", "noisy", "purified"]) {
    if (seen[name]) at(name).src = `data:image/png;base64,${seen[name]}`;
  }
  show("purifies", Boolean(seen.purified));
  at("sigma").textContent = sigma;
  show("seen");
}

async function certify(request, classes, signal) {
  show("download", false);
  show("named", false);
  show("certified");
  show("running");
  at("progress").value = 0;
  at("certified").scrollIntoView({behavior: "smooth", block: "nearest"});
  const settings = {n: Number(at("samples").value), classes};
  const answer = await ask("v1/certificates", {...request, ...settings, stream: true}, signal);
  for await (const [name, data] of events(answer)) {
    if (name === "error") throw new Error(data.error);
    if (name === "progress") {
      at("progress").value = data.samples / data.of;
      draw(data.curve, `${data.samples} of ${data.of} samples`);
    } else {
      finish(data);
    }
  }
}

function finish({certificate, curve, class: prediction}) {
  const {n, alpha} = certificate.certification;
  draw(curve, `${n} samples; wrong with a probability of at most ${alpha}`);
  if (prediction) {
    at("name").textContent = prediction.name;
    at("kept").textContent = prediction.radius > 0
      ? `and keeps that for every picture within ε = ${prediction.radius.toFixed(3)}.`
      : "but nothing around it is certified with so few samples.";
    show("named");
  }
  const file = new Blob([JSON.stringify(certificate)], {type: "application/json"});
  URL.revokeObjectURL(at("download").href);
  at("download").href = URL.createObjectURL(file);
  at("download").download = "certificate.json";
  show("download");
}

const WIDTH = 360, HEIGHT = 240, LEFT = 40, BOTTOM = 40, TOP = 12;

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Draws the certified cosine against the radius; null is where nothing is certified.
function draw(bounds, caption) {
  const known = bounds.filter(bound => bound.cosine !== null);
  const farthest = Math.max(...bounds.map(bound => bound.epsilon), 1e-9);
  const x = epsilon => LEFT + (WIDTH - LEFT - 8) * epsilon / farthest;
  const y = cosine => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * Math.max(cosine, 0);
  const parts = [element("path", {class: "axis", d: `M${LEFT} ${TOP}V${y(0)}H${WIDTH - 8}`})];
  for (const cosine of [0, 0.5, 1]) {
    parts.push(element("text", {x: LEFT - 6, y: y(cosine) + 4, "text-anchor": "end"}, String(cosine)));
  }
  parts.push(element("text", {x: LEFT, y: HEIGHT - 22, "text-anchor": "middle"}, "0"));
  if (bounds.length) {
    parts.push(element("text", {x: x(farthest), y: HEIGHT - 22, "text-anchor": "end"}, farthest.toFixed(3)));
  }
  parts.push(element("text", {x: LEFT, y: HEIGHT - 4}, "cosine ≥, against the radius ε of a change"));
  const points = known.map(bound => `${x(bound.epsilon).toFixed(1)} ${y(bound.cosine).toFixed(1)}`);
  if (points.length) parts.push(element("path", {class: "curve", d: `M${points.join("L")}`}));
  const title = at("described");
  title.textContent = known.map(b => `cosine at least ${b.cosine.toFixed(2)} within ${b.epsilon.toFixed(3)}`).join("; ");
  at("chart").replaceChildren(title, ...parts);
  at("caption").textContent = caption;
}

async function start(file) {
  running?.abort();
  const mine = running = new AbortController();
  say("");
  try {
    const request = {model: at("model").value, image: await base64(file)};
    const model = await (await ask(`v2/models/${encodeURIComponent(request.model)}`, null, mine.signal)).json();
    await look(request, model.parameters.sigma, mine.signal);
    await certify(request, Boolean(model.parameters.classes), mine.signal);
  } catch (error) {
    if (!mine.signal.aborted) say(error.message);
  }
  if (mine === running) show("running", false);
}

async function models() {
  say("");
  const {data} = await (await ask("v1/models")).json();
  at("model").replaceChildren(...data.map(model => new Option(model.id)));
  show("models", data.length > 1);
}

at("file").addEventListener("change", ({target}) => target.files[0] && start(target.files[0]));
at("form").addEventListener("submit", event => event.preventDefault());
const again = () => at("file").files[0] && start(at("file").files[0]);
at("model").addEventListener("change", again);
at("samples").addEventListener("change", again);
at("key").addEventListener("change", () => models().then(again, error => say(error.message)));
at("stop").addEventListener("click", () => running?.abort());
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
at("drop").addEventListener("drop", ({dataTransfer}) => {
  if (!dataTransfer.files.length) return;
  at("file").files = dataTransfer.files;
  start(dataTransfer.files[0]);
});
models().catch(error => say(error.message));
