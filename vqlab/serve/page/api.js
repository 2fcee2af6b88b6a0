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
    const token = sessionStorage.getItem(KEY);
    const access = token ? { Authorization: `Bearer ${token}` } : {};
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...access } });
    } catch {
      throw new ServerError("the server does not answer; check that vqlab serve is running.", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) {
      if (sessionStorage.getItem(KEY) === token) await askForToken(token !== null);
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

let asking = null;

/** Ask for the token once, however many requests need it. Throws ServerError if the user cancels. */
function askForToken(wrong) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("access");
    byId("token").value = "";
    byId("token-problem").hidden = !wrong;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (dialog.returnValue !== "continue") {
        reject(new ServerError("this server requires its token; reload the page to enter it.", 401));
        return;
      }
      sessionStorage.setItem(KEY, byId("token").value.replace(/[^!-~]/g, "")); // as the server's tokens are
      byId("token").value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
