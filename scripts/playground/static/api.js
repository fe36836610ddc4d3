// Ask the server. A refusal is an Error that holds the server's one sentence.

const token = document.querySelector("meta[name=token]").content;
const current = new Map(); // of each kind of request the newest; an older one is given up

async function send(name, body, signal) {
  const response = await fetch(`/api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-playground-token": token },
    body: JSON.stringify(body),
    signal,
  }).catch((problem) => {
    if (problem.name === "AbortError") throw problem;
    throw new Error("the server doesn’t answer: is `make playground` still running?");
  });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

function newest(kind) {
  current.get(kind)?.abort();
  const controller = new AbortController();
  current.set(kind, controller);
  return controller.signal;
}

export const stop = (kind) => current.get(kind)?.abort();

// Several answers, each as soon as it comes; false when the stream was stopped or a newer one took its place.
export async function stream(name, body, onLine, kind = name) {
  const signal = newest(kind);
  try {
    const reader = (await send(name, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + (done ? "\n" : value)).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean).map((text) => JSON.parse(text))) {
        if (line.error) throw new Error(line.error);
        onLine(line);
      }
      if (done) return true;
    }
  } catch (problem) {
    if (problem.name === "AbortError") return false;
    throw problem;
  }
}

// One answer; null when a newer request of the same kind has taken its place.
export async function post(name, body = {}) {
  let answer = null;
  return (await stream(name, body, (line) => (answer = line))) ? answer : null;
}
