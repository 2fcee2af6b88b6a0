// Requests to the server: its sentence on errors, its token, and retries while it is busy.

import { byId } from "./dom.js";

const BUSY = [429, 503];
const RETRIES = 8;
const KEY = "vqlab-token";

/** An answer with status 400 or above; the message is the server's sentence. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Return the JSON answer of a request. Throws ServerError. */
export async function json(path, options = {}) {
  return (await request(path, options)).json();
}

/** Return the answer of a request. While the server is busy, wait and send it again. */
export async function request(path, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...credentials() } });
    } catch {
      throw new ServerError("the server does not answer; check that vqlab serve is running.", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (BUSY.includes(response.status) && attempt < RETRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 0.25 * 2 ** attempt;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 10)));
      continue;
    }
    throw new ServerError(await sentence(response), response.status);
  }
}

/** Score images with one version of a category. `names`: what to call them. */
export function predict(category, version, files, { map = false, overlay = false, record = false } = {}) {
  const query = new URLSearchParams({ category, version, map: +map, overlay: +overlay });
  if (record) query.set("record", 1);
  return json(`/v1/predict?${query}`, { method: "POST", body: form(files) });
}

/** Return the body of a request with images. */
export function form(files) {
  const body = new FormData();
  for (const { file, name } of files) body.append("images", file, name);
  return body;
}

/** Save an answer of the server as a file. */
export async function download(path, name) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function sentence(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string") return error;
  } catch { /* not JSON */ }
  return `the server answered with status ${response.status}.`;
}

function credentials() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

let asking = null;

/** Ask for the token once, whatever number of requests needs it. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("access");
    byId("token").value = "";
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, byId("token").value.trim());
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
