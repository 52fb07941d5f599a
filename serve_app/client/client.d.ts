// Types of client.js. Fields have the names of the HTTP contract, so that an answer is what the service sent.

/** A file, or a URL that the service fetches: http(s), or `data:image/...;base64,`. */
export type Photo = string | Blob;

/** A photo, or up to four of one person. */
export type Photos = Photo | readonly Photo[];

/** The fields of a request besides the photos. Those that are null or missing take the service's defaults. */
export interface AvatarParameters {
  app_id?: string | null;
  prompt?: string | null;
  gender?: string | null;
  style?: string | null;
  negative_prompt?: string | null;
  batch?: number | null;
  height?: number | null;
  width?: number | null;
  quality?: "standard" | "fast" | null;
  num_inference_steps?: number | null;
  guidance_scale?: number | null;
  ip_adapter_scale?: number | null;
  min_similarity?: number | null;
  remove_background?: boolean | null;
  bg_color?: string | null;
  previews?: boolean | null;
  seed?: number | null;
  output_format?: "png" | "webp" | "jpeg" | null;
  ref_id?: string | null;
  webhook_url?: string | null;
  consent?: boolean | null;
  priority?: "normal" | "low" | null;
  deadline_s?: number | null;
  start_deadline_s?: number | null;
  fallback_app_id?: string | null;
}

/** Every answer of the service: these eight keys. `error_data` is empty text where there was no error. */
export interface Envelope<Output> {
  time_required: TimeRequired;
  error: string;
  error_data: ErrorData | "";
  input: Record<string, any>;
  output: Output;
  app_id: string;
  task_id: string;
  status: "PENDING" | "STARTED" | "SUCCESS" | "FAILED" | "CANCELLED";
}

/** A task in whatever state: unfinished it has `progress`, successful the fields of `AvatarOutput`. */
export type Task = Envelope<Partial<AvatarOutput> & { progress?: Progress }>;

/** A task that succeeded. */
export type FinishedTask = Envelope<AvatarOutput>;

/** Seconds; `stages` has those of each stage, of its longest image. */
export interface TimeRequired {
  startup_time: number;
  runtime: number;
  stages: Record<string, number>;
}

/** `step / steps` of the work is done. `previews` are data URLs, only in events of a task that asked for them. */
export interface Progress {
  step: number;
  steps: number;
  images_done: number;
  images: number;
  queue_position: number;
  eta_s: number | null;
  image_steps: number[];
  previews: (string | null)[];
}

/** Lists have one entry an image; `result` and `low_res_urls` are null where the safety stage withheld it. */
export interface AvatarOutput {
  result: (string | null)[];
  low_res_urls: (string | null)[];
  Has_NSFW_Content: boolean[];
  seeds: number[];
  face_similarity: (number | null)[];
  attempts: Attempt[][];
  receipts: (Receipt | null)[];
  warnings: PhotoWarning[];
}

/** One drawing of an image, kept or not. */
export interface Attempt {
  seed: number;
  face_similarity: number | null;
}

/** What an image was drawn with. */
export interface Receipt {
  app_id: string;
  model: string;
  weights: Record<string, string>;
  prompt: string;
  style: string | null;
  quality: "standard" | "fast";
  negative_prompt: string;
  seed: number;
  num_inference_steps: number;
  guidance_scale: number;
  ip_adapter_scale: number;
  lora_scale: number | null;
  lora_scales: Record<string, number>;
  sampler: string;
  schedule: Record<string, any>;
  drawn_width: number;
  drawn_height: number;
  drawn_sha256: string;
  width: number;
  height: number;
  remove_background: boolean;
  bg_color: string | null;
  output_format: "png" | "webp" | "jpeg";
  precision: string;
  device: string;
  fallback_from: string | null;
  photos: number;
  versions: Record<string, string>;
}

/** A photo is used, but its owner should know of something; `photo` says which, 0 is the first. */
export interface PhotoWarning {
  code: string;
  photo: number;
  message: string;
}

/** What a batch is opened with: `defaults` are of all its requests, `webhook_url` is told when all have ended. */
export interface BatchRequest {
  defaults?: AvatarParameters | null;
  ref_id?: string | null;
  metadata?: Record<string, string> | null;
  webhook_url?: string | null;
}

/** A request to be added: its name in the batch, its photos, and what the batch's defaults do not say. */
export interface BatchItem extends AvatarParameters {
  custom_id: string;
  photos: Photos;
}

/** The latest known state of a batch. Times are unix seconds. */
export interface Batch {
  batch_id: string;
  state: "open" | "running" | "finished" | "cancelled";
  counts: BatchCounts;
  created_at: number;
  deadline: number;
  finished_at: number | null;
  defaults: Record<string, any>;
  ref_id: string | null;
  metadata: Record<string, string>;
  webhook: WebhookDelivery | null;
}

/** How many requests of a batch are in each state. */
export interface BatchCounts {
  total: number;
  waiting: number;
  running: number;
  succeeded: number;
  failed: number;
  cancelled: number;
}

/** How a request of a batch ended; `index` counts the results in the order of these ends. */
export interface BatchResult {
  index: number;
  custom_id: string;
  envelope: Task;
}

/** How a webhook was told; `status` (HTTP) and `error` are those of the last attempt. */
export interface WebhookDelivery {
  attempts: number;
  delivered_at: number | null;
  given_up: boolean;
  status: number | null;
  error: string;
}

/** The faces of an upright photo of `width` x `height` pixels, the largest first; avatars use `faces[used]`. */
export interface FoundFaces {
  width: number;
  height: number;
  faces: Face[];
  used: number | null;
  accepted: boolean;
  reason: "no_face" | "face_too_small" | null;
  message: string;
  warnings: PhotoWarning[];
}

/** `box` is left, top, right, bottom in pixels; `sharpness` below 5 means blurred. */
export interface Face {
  box: [number, number, number, number];
  score: number;
  sharpness: number;
}

/** Whether this service made a picture. `credentials` can be trusted for a genuine one only. */
export interface Verdict {
  verdict: "genuine" | "altered" | "foreign" | "unreadable" | "unsigned";
  ours: boolean;
  intact: boolean;
  trust: string | null;
  message: string;
  credentials: Record<string, any> | null;
}

export interface AppList {
  apps: AppInfo[];
  consent_required: boolean;
}

/** An app that `app_id` can name; `styles` are by the names that `style` takes. */
export interface AppInfo {
  app_id: string;
  title: string;
  description: string;
  licence: string;
  safety: string;
  model: string;
  native_sizes: [number, number][];
  defaults: Record<string, any>;
  prompt: string;
  styles: Record<string, { title: string; [detail: string]: any }>;
  /** The words of prompts that the app knows, by kind: it ignores others. null where it reads any text. */
  vocabulary: Record<string, string[]> | null;
  qualities: ("standard" | "fast")[];
  /** What requests of the quality `fast` have in place of these fields; null where there is none. */
  fast: { num_inference_steps: number; guidance_scale: number; negative_prompt: string } | null;
  fallback_app_id: string | null;
  has_guidance: boolean;
  licences: Record<string, any>[];
  available: boolean;
  unavailable_reason: string | null;
}

export interface ClientOptions {
  /** `https://avatars.example.org`; in a browser the page's own origin where it is missing. */
  baseUrl?: string;
  /** Without one only downloads work. */
  token?: string;
  /** Of a call with its repeats; 150,000 by default. */
  timeoutMs?: number;
  /** How often a call is repeated after errors that may pass; 4 by default. */
  retries?: number;
}

export interface CallOptions {
  /** Where it is aborted, the call rejects with its reason. */
  signal?: AbortSignal;
  timeoutMs?: number;
  retries?: number;
}

export interface CreateOptions extends CallOptions {
  /** With the same key, token and request it is the same task; one of its own where it is missing. */
  idempotencyKey?: string;
}

export interface WaitOptions extends CallOptions {
  /** Called with each state, the last included. */
  progress?: (task: Task) => void;
}

/** Talks to one service with one token. Throws TypeError where the URL or the token cannot be used. */
export class FaceAvatarClient {
  constructor(options: ClientOptions);
  readonly avatars: Avatars;
  readonly batches: Batches;
  readonly faces: Faces;
  readonly apps: Apps;
  /** Whether this service made a picture, and whether it is unchanged. */
  verify(picture: Photo, options?: CallOptions): Promise<Verdict>;
}

export interface Avatars {
  /** Generate avatars and wait; repeats generate nothing twice. Waits at least `deadline_s` and half a minute. */
  create(photos: Photos, parameters?: AvatarParameters, options?: CreateOptions): Promise<FinishedTask>;
  /** Queue a task without waiting for it. */
  submit(photos: Photos, parameters?: AvatarParameters, options?: CreateOptions): Promise<Task>;
  /** The current state of a task, also of a failed one, with newly signed URLs. */
  get(task: Task | string, options?: CallOptions): Promise<Task>;
  /** The task when it has succeeded; `timeoutMs` is an hour by default. Rejects where it fails or is cancelled. */
  wait(task: Task | string, options?: WaitOptions): Promise<FinishedTask>;
  /** Each state of a task until it is finished, the last included. Reconnects when the stream breaks. */
  events(task: Task | string, options?: CallOptions): AsyncGenerator<Task, void, undefined>;
  /** Cancel an unfinished task; delete the results of a finished one. */
  cancel(task: Task | string, options?: CallOptions): Promise<Task>;
  /** An image by one of its URLs. Rejects where it is null: that image was withheld. */
  download(url: string | null, options?: CallOptions): Promise<Blob>;
}

export interface Batches {
  /** Open a batch; repeats open no second one. */
  create(request?: BatchRequest, options?: CallOptions): Promise<Batch>;
  /** Add up to 100 requests, all or none; how many are new. The same ones once more add nothing. */
  add(batch: Batch | string, items: readonly BatchItem[], options?: CallOptions): Promise<number>;
  /** Say that all requests are added. */
  close(batch: Batch | string, options?: CallOptions): Promise<Batch>;
  get(batch: Batch | string, options?: CallOptions): Promise<Batch>;
  /** Your newest batches, the newest first. */
  list(options?: CallOptions): Promise<Batch[]>;
  /** The results that there are, after the one with the index `after`. Reconnects when the stream breaks. */
  results(batch: Batch | string, options?: CallOptions & { after?: number }): AsyncGenerator<BatchResult, void, undefined>;
  /** Cancel what has not ended; the results that there are stay. */
  cancel(batch: Batch | string, options?: CallOptions): Promise<Batch>;
}

export interface Faces {
  /** The faces of a photo, and whether it would be accepted, for an app; generates nothing. */
  inspect(photo: Photo, options?: CallOptions & { appId?: string }): Promise<FoundFaces>;
}

export interface Apps {
  list(options?: CallOptions): Promise<AppList>;
}

/** The names of the service's errors. */
export type ServiceErrorName =
  | "Unauthorized"
  | "Forbidden"
  | "Not Found"
  | "Unknown App"
  | "Unknown Task"
  | "Unknown Batch"
  | "Method Not Allowed"
  | "Conflict"
  | "Request Too Large"
  | "Unsupported Media Type"
  | "Invalid Request"
  | "Image URL Error"
  | "Face Consistent Error"
  | "NSFW Content"
  | "Rate Limit"
  | "Overloaded"
  | "Timeout"
  | "Internal Error";

/** Those of the client: no whole answer, no answer of this service, out of time to wait, an image without a URL. */
export type ClientErrorName = "Unreachable" | "Unexpected Answer" | "Not Finished" | "Withheld";

/** `error_data`; `photo` says which of several photos it is about, 0 is the first. */
export interface ErrorData {
  message?: string;
  reason?: string;
  photo?: number;
  fields?: { field: string; message: string; accepted?: any }[];
  retry_after_s?: number;
  request_id?: string;
  [detail: string]: any;
}

export interface FaceAvatarErrorDetails {
  status?: number;
  data?: ErrorData;
  requestId?: string;
  retryAfter?: number | null;
  taskId?: string;
  cause?: unknown;
}

/** Everything that goes wrong, but for a call whose `signal` was aborted. */
export class FaceAvatarError extends Error {
  constructor(name: string, message: string, details?: FaceAvatarErrorDetails);
  /** A `ServiceErrorName`, a `ClientErrorName`, `CANCELLED`, or `HTTP 502` where a proxy before the service answers. */
  name: string;
  /** Of the HTTP answer; 0 where none came, 200 where a task was read that had failed. */
  readonly status: number;
  readonly data: ErrorData;
  /** What was wrong with which field of the request. */
  readonly fields: { field: string; message: string; accepted?: any }[];
  /** By which the service's log has it; empty where no answer came. */
  readonly requestId: string;
  /** Seconds until another try may help; null where the service did not say. */
  readonly retryAfter: number | null;
  readonly taskId: string;
}

/** Whether a task is over: it succeeded, failed or was cancelled. */
export function isFinished(task: Task): boolean;

/** The task. Throws FaceAvatarError unless it succeeded. */
export function requireSuccess(task: Task): FinishedTask;
