// What a page in a browser has and Node has not, as far as OpenCensus asks for it.
//
// A page's script may send JSON elsewhere only where the other side allows it when asked (the Fetch standard's preflight); Node
// asks nobody, so this XMLHttpRequest does.
"use strict";

class XMLHttpRequest {
  open(method, target) {
    Object.assign(this, { method, target, headers: {}, readyState: 1, status: 0 });
  }

  setRequestHeader(name, value) {
    this.headers[name.toLowerCase()] = value;
  }

  async send(body) {
    try {
      await this.ask();
      const headers = { ...this.headers, Origin: location.origin };
      const answer = await fetch(this.target, { method: this.method, headers, body });
      this.mayRead(answer);
      await answer.text();
      this.status = answer.status;
    } catch (error) {
      console.error(error);
    }
    this.readyState = 4;
    this.onreadystatechange();
  }

  async ask() {
    const answer = await fetch(this.target, {
      method: "OPTIONS",
      headers: {
        Origin: location.origin,
        "Access-Control-Request-Method": this.method,
        "Access-Control-Request-Headers": Object.keys(this.headers).sort().join(","),
      },
    });
    if (!answer.ok) throw new Error(`the preflight was answered with ${answer.status}`);
    this.mayRead(answer);
    const allowed = (answer.headers.get("access-control-allow-headers") ?? "").toLowerCase().split(/, */);
    for (const name of Object.keys(this.headers)) {
      if (!allowed.includes(name)) throw new Error(`the preflight does not allow the header ${name}: ${allowed}`);
    }
  }

  mayRead(answer) {
    const allowed = answer.headers.get("access-control-allow-origin");
    if (allowed !== location.origin && allowed !== "*") {
      throw new Error(`${answer.status}: ${location.origin} is not allowed, only ${allowed}`);
    }
  }
}

globalThis.window = globalThis;
globalThis.XMLHttpRequest = XMLHttpRequest;
globalThis.location = { host: "page.example", origin: process.argv[3] };
