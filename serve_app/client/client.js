// The client of a Face Avatar service for browsers and Node 20 or newer; needs no other package. Types: client.d.ts.
//
//     const client = new FaceAvatarClient({ baseUrl: "http://127.0.0.1:8000", token });
//     const { output } = await client.avatars.create(photo, { batch: 2, gender: "female" });
//
// It repeats what may help, with one idempotency key, so that nothing is generated twice, and takes up broken event
// streams where they ended: as the Python client beside it does.

/** @import * as types from "./client.js" */
/**
 * What is sent; `as`: how a good answer is read.
 * @typedef {{ method: string, url: string, headers: Record<string, string>, body?: string | FormData, as: "text" | "blob" }} Call
 */
/** @typedef {{ status: number, headers: Headers, body: string | Blob }} Answer */

const DEFAULT_APP = "face-avatar";
const TIMEOUT_MS = 150_000; // more than the service's own deadline, so that its answer comes first
const GRACE_MS = 30_000; // added to the deadline of a request
const WAIT_MS = 3_600_000; // the service's default deadline of a queued task
const RETRIES = 4;
const POLL_RETRIES = 8; // about a minute, so that waiting survives a restart of the service
const FIRST_POLL_MS = 500;
const MAX_POLL_MS = 5000;
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 60_000;
const SILENCE_MS = 25_000; // longest gap in an event stream; the service sends a heartbeat every 10 s
const MAX_TIMER_MS = 2 ** 31 - 1;
const BATCHES = "/api/v1/batches";
const JSON_LINES = "application/x-ndjson";
const FINISHED = ["SUCCESS", "FAILED", "CANCELLED"];

/**
 * Everything that goes wrong, but for a call whose `signal` was aborted: that rejects with the signal's reason.
 * @implements {types.FaceAvatarError}
 */
export class FaceAvatarError extends Error {
  /**
   * @param {string} name
   * @param {string} message
   * @param {types.FaceAvatarErrorDetails} [details]
   */
  constructor(name, message, { status = 0, data = {}, requestId = "", retryAfter = null, taskId = "", cause } = {}) {
    super(message, { cause });
    this.name = name;
    this.status = status;
    this.data = data;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
    this.taskId = taskId;
  }

  get fields() {
    return this.data.fields ?? [];
  }
}

/** @implements {types.FaceAvatarClient} */
export class FaceAvatarClient {
  #connection;

  /** @param {types.ClientOptions} options */
  constructor(options) {
    this.#connection = new Connection(options);
    this.avatars = new Avatars(this.#connection);
    this.batches = new Batches(this.#connection);
    this.faces = new Faces(this.#connection);
    this.apps = new Apps(this.#connection);
  }

  /**
   * @param {types.Photo} picture
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Verdict>}
   */
  async verify(picture, options) {
    const call = this.#connection.call("POST", "/api/v1/verify", await bodyOf([picture], {}));
    return (await this.#connection.envelope(call, options)).output;
  }
}

/** @implements {types.Avatars} */
class Avatars {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * @param {types.Photos} photos
   * @param {types.AvatarParameters} [parameters]
   * @param {types.CreateOptions} [options]
   * @returns {Promise<types.FinishedTask>}
   */
  async create(photos, parameters = {}, options = {}) {
    const own = Math.max(this.#connection.timeoutMs, 1000 * (parameters.deadline_s ?? 0) + GRACE_MS);
    const call = await this.#creation(photos, { ...parameters, celery: false }, options.idempotencyKey);
    return requireSuccess(await this.#connection.envelope(call, { timeoutMs: own, ...options }));
  }

  /**
   * @param {types.Photos} photos
   * @param {types.AvatarParameters} [parameters]
   * @param {types.CreateOptions} [options]
   * @returns {Promise<types.Task>}
   */
  async submit(photos, parameters = {}, options = {}) {
    const call = await this.#creation(photos, { ...parameters, celery: true }, options.idempotencyKey);
    return this.#connection.envelope(call, options);
  }

  /**
   * @param {types.Task | string} task
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Task>}
   */
  get(task, options) {
    return this.#connection.envelope(this.#connection.call("GET", pathOf(task)), options);
  }

  /**
   * @param {types.Task | string} task
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Task>}
   */
  cancel(task, options) {
    return this.#connection.envelope(this.#connection.call("DELETE", pathOf(task)), options);
  }

  /**
   * @param {types.Task | string} task
   * @param {types.WaitOptions} [options]
   * @returns {Promise<types.FinishedTask>}
   */
  async wait(task, options = {}) {
    for await (const state of this.events(task, options)) {
      options.progress?.(state);
      if (isFinished(state)) return requireSuccess(state);
    }
    throw new FaceAvatarError("Not Finished", "the events ended before the task did"); // not reached
  }

  /**
   * From the event stream of the task, and where none comes, by asking.
   * @param {types.Task | string} task
   * @param {types.CallOptions} [options]
   * @returns {AsyncGenerator<types.Task, void, undefined>}
   */
  async *events(task, { signal, timeoutMs = WAIT_MS, retries = this.#connection.retries } = {}) {
    const ends = performance.now() + timeoutMs;
    const stream = new EventStream(this.#connection, `${pathOf(task)}/events`);
    let [shown, pauseMs] = ["", FIRST_POLL_MS];
    /** @param {types.Task} state */
    const isNew = (state) => {
      const before = shown;
      shown = JSON.stringify([state.status, state.output.progress]);
      return isFinished(state) || shown !== before;
    };
    for (;;) {
      for await (const state of stream.states(ends, signal)) {
        pauseMs = FIRST_POLL_MS;
        if (isNew(state)) yield state;
        if (isFinished(state)) return;
      }
      const state = await this.get(task, { signal, retries: Math.max(retries, POLL_RETRIES) });
      if (isNew(state)) yield state;
      if (isFinished(state)) return;
      if (performance.now() + pauseMs >= ends) {
        const message = `the task was not finished within ${timeoutMs / 1000} s`;
        throw new FaceAvatarError("Not Finished", message, { taskId: idOf(task) });
      }
      await pause(pauseMs, signal);
      pauseMs = Math.min(pauseMs * 1.25, MAX_POLL_MS);
    }
  }

  /**
   * @param {string | null} url
   * @param {types.CallOptions} [options]
   * @returns {Promise<Blob>}
   */
  async download(url, options) {
    if (url === null) throw new FaceAvatarError("Withheld", "the safety stage withheld this image");
    // Without the token: the URL is signed, and may belong to another host.
    const call = { method: "GET", url: this.#connection.address(url), headers: {}, as: /** @type {const} */ ("blob") };
    return /** @type {Blob} */ ((await this.#connection.answer(call, options)).body);
  }

  /**
   * @param {types.Photos} photos
   * @param {types.AvatarParameters & { celery: boolean }} parameters
   * @param {string} [key]
   */
  async #creation(photos, parameters, key = randomKey()) {
    const several = Array.isArray(photos) ? photos : [photos];
    const body = await bodyOf(several, { app_id: DEFAULT_APP, ...given(parameters) });
    const call = this.#connection.call("POST", "/getImageToImage", body);
    call.headers["Idempotency-Key"] = key; // the same in every retry
    return call;
  }
}

/** @implements {types.Batches} */
class Batches {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * @param {types.BatchRequest} [request]
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch>}
   */
  create(request = {}, options) {
    const body = { ...given(request), defaults: { app_id: DEFAULT_APP, ...given(request.defaults ?? {}) } };
    const call = this.#connection.call("POST", BATCHES, JSON.stringify(body));
    call.headers["Idempotency-Key"] = randomKey(); // the same in every retry
    return this.#batch(call, options);
  }

  /**
   * @param {types.Batch | string} batch
   * @param {readonly types.BatchItem[]} items
   * @param {types.CallOptions} [options]
   * @returns {Promise<number>}
   */
  async add(batch, items, options) {
    const lines = await Promise.all(
      items.map(async ({ photos, ...fields }) => {
        const urls = await urlsOf(Array.isArray(photos) ? photos : [photos]);
        return `${JSON.stringify({ ...given(fields), ...urls })}\n`;
      }),
    );
    const call = this.#connection.call("POST", `${pathOfBatch(batch)}/requests`, lines.join(""));
    call.headers["Content-Type"] = JSON_LINES;
    return (await this.#connection.envelope(call, options)).output.added;
  }

  /**
   * @param {types.Batch | string} batch
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch>}
   */
  close(batch, options) {
    return this.#batch(this.#connection.call("POST", `${pathOfBatch(batch)}/close`), options);
  }

  /**
   * @param {types.Batch | string} batch
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch>}
   */
  get(batch, options) {
    return this.#batch(this.#connection.call("GET", pathOfBatch(batch)), options);
  }

  /**
   * @param {types.Batch | string} batch
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch>}
   */
  cancel(batch, options) {
    return this.#batch(this.#connection.call("DELETE", pathOfBatch(batch)), options);
  }

  /**
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch[]>}
   */
  async list(options) {
    return (await this.#connection.envelope(this.#connection.call("GET", BATCHES), options)).output.batches;
  }

  /**
   * @param {types.Batch | string} batch
   * @param {types.CallOptions & { after?: number }} [options]
   * @returns {AsyncGenerator<types.BatchResult, void, undefined>}
   */
  async *results(batch, { after = 0, signal, timeoutMs = WAIT_MS, retries = this.#connection.retries } = {}) {
    const ends = performance.now() + timeoutMs;
    const stream = new ResultStream(this.#connection, `${pathOfBatch(batch)}/results`, after);
    for (let failures = 0; ; failures += 1) {
      const before = stream.after;
      const error = yield* stream.results(ends, signal);
      if (error === null) return;
      if (stream.after !== before) failures = 0;
      const pauseMs = pauseBefore(error, failures);
      if (pauseMs === null || failures >= retries || performance.now() + pauseMs >= ends) throw error;
      await pause(pauseMs, signal);
    }
  }

  /**
   * @param {Call} call
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.Batch>}
   */
  async #batch(call, options) {
    return (await this.#connection.envelope(call, options)).output.batch;
  }
}

/** @implements {types.Faces} */
class Faces {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * @param {types.Photo} photo
   * @param {types.CallOptions & { appId?: string }} [options]
   * @returns {Promise<types.FoundFaces>}
   */
  async inspect(photo, options = {}) {
    const body = await bodyOf([photo], given({ app_id: options.appId }));
    return (await this.#connection.envelope(this.#connection.call("POST", "/api/v1/faces", body), options)).output;
  }
}

/** @implements {types.Apps} */
class Apps {
  #connection;

  /** @param {Connection} connection */
  constructor(connection) {
    this.#connection = connection;
  }

  /**
   * @param {types.CallOptions} [options]
   * @returns {Promise<types.AppList>}
   */
  async list(options) {
    return (await this.#connection.envelope(this.#connection.call("GET", "/api/v1/apps"), options)).output;
  }
}

/** To one service with one token: sends calls, and repeats those whose errors may pass. */
class Connection {
  #base;
  #headers;

  /** @param {types.ClientOptions} options */
  constructor({ baseUrl = globalThis.location?.origin, token = "", timeoutMs = TIMEOUT_MS, retries = RETRIES }) {
    const base = new URL(baseUrl);
    if (!/^https?:$/.test(base.protocol) || base.search || base.hash || base.username || base.password) {
      throw new TypeError(`${baseUrl} is not the http(s) URL of a service`);
    }
    if (!/^[\x21-\x7e]*$/.test(token)) throw new TypeError("a token is one line of plain characters");
    this.#base = base.href.replace(/\/+$/, "");
    this.#headers = token ? { Authorization: `Bearer ${token}` } : undefined;
    this.timeoutMs = timeoutMs;
    this.retries = retries;
  }

  /** @param {string} url */
  address(url) {
    return new URL(url, `${this.#base}/`).href;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {string | FormData} [body]
   * @returns {Call}
   */
  call(method, path, body) {
    const kind = typeof body === "string" ? { "Content-Type": "application/json" } : undefined;
    return { method, url: this.#base + path, headers: { ...this.#headers, ...kind }, body, as: "text" };
  }

  /**
   * The envelope of a call that succeeds.
   * @param {Call} call
   * @param {types.CallOptions} [options]
   * @returns {Promise<any>}
   */
  async envelope(call, options) {
    const answer = await this.answer(call, options);
    const envelope = parsed(answer.body);
    if (!envelope?.output) {
      const message = `${new URL(call.url).origin} does not answer as a Face Avatar service does`;
      throw new FaceAvatarError("Unexpected Answer", message, { status: answer.status });
    }
    return envelope;
  }

  /**
   * The answer to a call, sent again after errors that may pass, all within `timeoutMs`. An error that asks for more
   * patience than that is one at once.
   * @param {Call} call
   * @param {types.CallOptions} [options]
   * @returns {Promise<Answer>}
   */
  async answer(call, { signal, timeoutMs = this.timeoutMs, retries = this.retries } = {}) {
    const ends = performance.now() + timeoutMs;
    for (let repeats = 0; ; repeats += 1) {
      const outcome = await this.#attempt(call, ends - performance.now(), signal);
      if (!(outcome instanceof FaceAvatarError)) return outcome;
      const pauseMs = pauseBefore(outcome, repeats);
      if (pauseMs === null || repeats >= retries) throw outcome;
      if (performance.now() + Math.max(pauseMs, 1000 * (outcome.retryAfter ?? 0)) >= ends) throw outcome;
      await pause(pauseMs, signal);
    }
  }

  /**
   * @param {Call} call
   * @param {number} ms
   * @param {AbortSignal} [signal]
   * @returns {Promise<Answer | FaceAvatarError>}
   */
  async #attempt({ url, as, ...request }, ms, signal) {
    const limit = new Limit(signal);
    limit.allow(ms);
    try {
      const answer = await fetch(url, { ...request, signal: limit.signal });
      const { status, headers } = answer;
      return answer.ok ? { status, headers, body: await answer[as]() } : errorOf(status, headers, await answer.text());
    } catch (cause) {
      return unreachable(url, cause, signal);
    } finally {
      limit.end();
    }
  }
}

/** The events of one task, connection by connection: each goes on where the one before ended. */
class EventStream {
  #connection;
  #path;
  #last = ""; // id of the last event
  #exists = true; // the service has an event stream

  /**
   * @param {Connection} connection
   * @param {string} path
   */
  constructor(connection, path) {
    this.#connection = connection;
    this.#path = path;
  }

  /**
   * What one connection tells until it ends, whatever ends it. EventSource could not send a token.
   * @param {number} ends
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<types.Task, void, undefined>}
   */
  async *states(ends, signal) {
    if (!this.#exists) return;
    const limit = new Limit(signal);
    const listen = () => limit.allow(Math.min(SILENCE_MS, ends - performance.now()));
    try {
      listen();
      const { url, headers } = this.#connection.call("GET", this.#path);
      const resumed = this.#last ? { "Last-Event-ID": this.#last } : undefined;
      const answer = await fetch(url, { headers: { ...headers, ...resumed }, signal: limit.signal });
      if ([429, 502, 503, 504].includes(answer.status)) return;
      const kind = answer.headers.get("content-type") ?? "";
      this.#exists = answer.status === 200 && kind.startsWith("text/event-stream");
      if (!this.#exists || !answer.body) return;
      for await (const block of partsOf(answer.body, /\r?\n\r?\n/, listen)) {
        const { id, data } = eventOf(block);
        const state = parsed(data);
        if (!state?.output) continue; // a comment
        this.#last = id;
        yield state;
      }
    } catch (cause) {
      unreachable(this.#path, cause, signal); // it ended; only an abort is passed on
    } finally {
      limit.end();
    }
  }
}

/** The results of one batch, connection by connection: each goes on after the one that came last, `after`. */
class ResultStream {
  #connection;
  #path;

  /**
   * @param {Connection} connection
   * @param {string} path
   * @param {number} after
   */
  constructor(connection, path, after) {
    this.#connection = connection;
    this.#path = path;
    this.after = after;
  }

  /**
   * What one connection tells; returns the error that ended it, null where all came.
   * @param {number} ends
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<types.BatchResult, FaceAvatarError | null, undefined>}
   */
  async *results(ends, signal) {
    const { url, headers } = this.#connection.call("GET", `${this.#path}?after=${this.after}`);
    const limit = new Limit(signal);
    const listen = () => limit.allow(Math.min(SILENCE_MS, ends - performance.now()));
    try {
      listen();
      const answer = await fetch(url, { headers, signal: limit.signal });
      if (!answer.ok) return errorOf(answer.status, answer.headers, await answer.text());
      const kind = answer.headers.get("content-type") ?? "";
      if (!kind.startsWith(JSON_LINES) || !answer.body) return noResults(url, answer.status);
      for await (const line of partsOf(answer.body, "\n", listen)) {
        const result = parsed(line);
        if (!result?.envelope) return noResults(url, answer.status);
        this.after = result.index;
        yield result;
      }
      return null;
    } catch (cause) {
      return unreachable(url, cause, signal);
    } finally {
      limit.end();
    }
  }
}

/** A signal that aborts with its caller's, or when the time is over that was allowed last. */
class Limit {
  #control = new AbortController();
  #outer;
  #stop = () => this.#control.abort(this.#outer?.reason);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {AbortSignal} [outer] */
  constructor(outer) {
    outer?.throwIfAborted();
    this.#outer = outer;
    outer?.addEventListener("abort", this.#stop, { once: true });
  }

  get signal() {
    return this.#control.signal;
  }

  /** @param {number} ms */
  allow(ms) {
    clearTimeout(this.#timer);
    const late = () => this.#control.abort(new Error("no answer in time"));
    this.#timer = setTimeout(late, Math.min(Math.max(ms, 0), MAX_TIMER_MS));
  }

  end() {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#stop);
    this.#control.abort();
  }
}

/** @param {types.Task} task */
export function isFinished(task) {
  return FINISHED.includes(task.status);
}

/**
 * @param {types.Task} task
 * @returns {types.FinishedTask}
 */
export function requireSuccess(task) {
  if (task.status === "SUCCESS") return /** @type {types.FinishedTask} */ (task);
  const name = task.error || task.status;
  const data = task.error_data || { message: `task ${task.task_id} is ${task.status}` };
  throw new FaceAvatarError(name, inWords(name, data), { status: 200, data, taskId: task.task_id });
}

/**
 * Milliseconds until a call is sent again; null where that would not help.
 * @param {FaceAvatarError} error
 * @param {number} repeats how many there have been
 */
function pauseBefore({ status, name, retryAfter }, repeats) {
  // A 504 of the service means that the request's deadline has passed; a proxy's, that the proxy stopped waiting.
  const ofProxy = status === 504 && name === "HTTP 504";
  if (![0, 502, 503].includes(status) && !(status === 429 && retryAfter !== null) && !ofProxy) return null;
  // Jitter: clients that failed at the same moment must not retry at the same moment.
  const backoffMs = FIRST_PAUSE_MS * 2 ** Math.min(repeats, 16) * (0.5 + Math.random() / 2);
  return Math.min(Math.max(backoffMs, 1000 * (retryAfter ?? 0)), MAX_PAUSE_MS);
}

/**
 * @param {number} status
 * @param {Headers} headers
 * @param {string} text
 */
function errorOf(status, headers, text) {
  const envelope = parsed(text);
  const own = typeof envelope?.error === "string";
  const name = own ? envelope.error : `HTTP ${status}`;
  const data = own ? envelope.error_data || {} : { message: "the answer is not the service's own" };
  const requestId = headers.get("x-request-id") ?? data.request_id ?? "";
  const retryAfter = secondsOf(headers.get("retry-after"));
  const taskId = own ? envelope.task_id : "";
  return new FaceAvatarError(name, inWords(name, data), { status, data, requestId, retryAfter, taskId });
}

/**
 * The error of a call without an answer. Throws the reason of a signal that was aborted.
 * @param {string} url
 * @param {unknown} cause
 * @param {AbortSignal} [signal]
 */
function unreachable(url, cause, signal) {
  signal?.throwIfAborted();
  const why = cause instanceof Error ? cause.message : cause;
  return new FaceAvatarError("Unreachable", `${url.split("?")[0]} gave no whole answer: ${why}`, { cause });
}

/**
 * @param {string} url
 * @param {number} status
 */
function noResults(url, status) {
  const message = `${new URL(url).origin} does not answer with the results of a batch`;
  return new FaceAvatarError("Unexpected Answer", message, { status });
}

/**
 * One line, and one more for each invalid field.
 * @param {string} name
 * @param {types.ErrorData} data
 */
function inWords(name, { message, photo, fields = [] }) {
  const about = photo === undefined ? "" : ` (photo ${photo + 1})`; // people count from 1
  const first = (message ? `${name}: ${message}` : name) + about;
  return [first, ...fields.map((each) => `  ${each.field}: ${each.message}`)].join("\n");
}

/**
 * RFC 9110, 10.2.3: a number of seconds, or a date. Null where the header is missing or invalid.
 * @param {string | null} text
 */
function secondsOf(text) {
  if (text === null || text.trim() === "") return null;
  const seconds = /^\d{1,9}$/.test(text.trim()) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.max(seconds, 0);
}

/**
 * Files go as a form; beside URLs as data URLs, because a form has one or the other.
 * @param {readonly types.Photo[]} photos
 * @param {Record<string, unknown>} fields
 */
async function bodyOf(photos, fields) {
  if (photos.length && photos.every((photo) => typeof photo !== "string")) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.set(name, String(value));
    for (const photo of photos) form.append("file", photo);
    return form;
  }
  return JSON.stringify({ ...fields, ...(await urlsOf(photos)) });
}

/** @param {readonly types.Photo[]} photos */
async function urlsOf(photos) {
  const urls = await Promise.all(photos.map(urlOf));
  return urls.length === 1 ? { file_url: urls[0] } : { file_urls: urls };
}

/** @param {types.Photo} photo */
async function urlOf(photo) {
  if (typeof photo === "string") return photo;
  const data = new Uint8Array(await photo.arrayBuffer());
  const parts = [];
  for (let at = 0; at < data.length; at += 0x8000) parts.push(String.fromCharCode(...data.subarray(at, at + 0x8000)));
  return `data:${photo.type || "image/jpeg"};base64,${btoa(parts.join(""))}`;
}

/**
 * The parts of a text that a separator ends, as they come; `heard` is called for whatever comes.
 * @param {ReadableStream<Uint8Array>} body
 * @param {string | RegExp} separator
 * @param {() => void} heard
 * @returns {AsyncGenerator<string, void, undefined>}
 */
async function* partsOf(body, separator, heard) {
  const [reader, decoder] = [body.getReader(), new TextDecoder()];
  for (let [text, chunk] = ["", await reader.read()]; !chunk.done; chunk = await reader.read()) {
    heard();
    const parts = (text + decoder.decode(chunk.value, { stream: true })).split(separator);
    text = /** @type {string} */ (parts.pop());
    yield* parts;
  }
}

/** @param {string} block */
function eventOf(block) {
  const event = { id: "", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (name === "id") event.id = value;
    if (name === "data") event.data += (event.data && "\n") + value;
  }
  return event;
}

/**
 * An object as JSON has it; null for what is none.
 * @param {string | Blob} text
 */
function parsed(text) {
  try {
    const value = JSON.parse(/** @type {string} */ (text));
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** @param {object} fields */
function given(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null));
}

/** @param {types.Task | string} task */
function idOf(task) {
  return typeof task === "string" ? task : task.task_id;
}

/** @param {types.Task | string} task */
function pathOf(task) {
  return `/api/v1/tasks/${encodeURIComponent(idOf(task))}`;
}

/** @param {types.Batch | string} batch */
function pathOfBatch(batch) {
  return `${BATCHES}/${encodeURIComponent(typeof batch === "string" ? batch : batch.batch_id)}`;
}

/** `crypto.randomUUID` is not there over plain HTTP. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((done, refused) => {
    const stop = () => {
      clearTimeout(timer);
      refused(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      done();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
