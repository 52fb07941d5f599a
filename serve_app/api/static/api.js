// The service's public API. What goes wrong is an ApiError; an answer that went well is its envelope.

const RETRY_MS = 1000;
const SILENCE_MS = 25_000; // of a stream; the service says something every ten seconds
const MAX_MISSES = 60; // questions in a row without an answer, before a task is given up

export class ApiError extends Error {
  /** `status` is 0 where no answer came. */
  constructor(status, envelope = {}) {
    super(envelope.error || "Unreachable");
    this.status = status;
    this.name = envelope.error || "Unreachable";
    this.data = envelope.error_data || {};
    this.fields = this.data.fields ?? [];
  }
}

export class Api {
  constructor(token) {
    this.token = token;
  }

  /** `apps`, and whether consent is required. */
  async offer() {
    return (await this.#ask("/api/v1/apps")).output;
  }

  async faces(photo, appId, signal) {
    const body = new FormData();
    if (appId) body.set("app_id", appId);
    body.set("file", photo);
    return (await this.#ask("/api/v1/faces", { method: "POST", body, signal })).output;
  }

  /** Queue a request. A repeat after a lost answer is the same task, by its key. */
  async submit(photos, parameters) {
    const body = new FormData();
    for (const [name, value] of Object.entries(parameters)) body.set(name, value);
    body.set("celery", "true");
    body.set("previews", "true");
    for (const photo of photos) body.append("file", photo);
    const headers = { "Idempotency-Key": randomKey() };
    const send = () => this.#ask("/getImageToImage", { method: "POST", body, headers });
    try {
      return await send();
    } catch (error) {
      if (error.status !== 0) throw error;
      await pause(RETRY_MS);
      return send();
    }
  }

  task(id) {
    return this.#ask(`/api/v1/tasks/${id}`);
  }

  cancel(id) {
    return this.#ask(`/api/v1/tasks/${id}`, { method: "DELETE" });
  }

  /** The envelopes of a task until it is finished: from its events, and where they do not come, by asking. */
  async *follow(id) {
    let last = "";
    for (let misses = 0; misses < MAX_MISSES; misses += 1) {
      try {
        for await (const event of this.#events(id, last)) {
          [last, misses] = [event.id, 0];
          yield event.envelope;
          if (isFinished(event.envelope)) return;
        }
      } catch (error) {
        if (isFinal(error)) throw error;
      }
      try {
        const envelope = await this.task(id);
        misses = 0;
        yield envelope;
        if (isFinished(envelope)) return;
      } catch (error) {
        if (isFinal(error)) throw error;
      }
      await pause(RETRY_MS);
    }
    throw new ApiError(0);
  }

  /** EventSource cannot send a token, so the stream is read by hand. */
  async *#events(id, last) {
    const broken = new AbortController();
    let silence = setTimeout(() => broken.abort(), SILENCE_MS);
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await this.#send(`/api/v1/tasks/${id}/events`, { headers, signal: broken.signal });
      if (answer.status !== 200) return;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = "", part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(silence);
        silence = setTimeout(() => broken.abort(), SILENCE_MS);
        const blocks = (text + part.value).split("\n\n");
        text = blocks.pop();
        yield* blocks.map(parseEvent).filter((event) => event.envelope);
      }
    } catch (error) {
      throw error instanceof ApiError ? error : new ApiError(0);
    } finally {
      clearTimeout(silence);
      broken.abort();
    }
  }

  async #ask(path, options) {
    return (await this.#send(path, options)).json();
  }

  async #send(path, options = {}) {
    const headers = { ...options.headers, Authorization: `Bearer ${this.token}` };
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ApiError(0);
    }
    if (answer.ok) return answer;
    throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  }
}

export function isFinished(envelope) {
  return ["SUCCESS", "FAILED", "CANCELLED"].includes(envelope.status);
}

/** Asking again would not help. */
function isFinal(error) {
  return error.status === 401 || error.status === 403 || error.status === 404;
}

function parseEvent(block) {
  const lines = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]);
  const { id = "", data } = Object.fromEntries(lines);
  return { id, envelope: data && JSON.parse(data) };
}

/** `crypto.randomUUID` is not there over plain HTTP. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pause(ms) {
  return new Promise((done) => setTimeout(done, ms));
}
