"""A backend to look at: prints what is posted to it. `python3 backend.py` listens on 127.0.0.1:9499."""

from http.server import BaseHTTPRequestHandler, HTTPServer


class Backend(BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["content-length"])).decode(), end="", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", 9499), Backend).serve_forever()
