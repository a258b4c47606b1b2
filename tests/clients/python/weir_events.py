"""A program that reports states at an agent, or watches them at a collector: FOLDER-OF-PROTO ADDRESS report|watch.

Commands of a reporter, a line each; values are texts:
    report KIND KEY VALUE agent|collector    waits until it is persisted there, for as long as it takes
    delete KIND KEY
    stream KIND COUNT                        so many keys in one call

A watcher has no commands; each event is a line, and where its stream breaks it comes again with its last cursor.
"""

import importlib
import json
import os
import sys
import tempfile
import threading
import time

import grpc
from grpc_tools import protoc

proto, address, role = sys.argv[1:]
generated = tempfile.mkdtemp(prefix="weir-events-")
code = protoc.main(["protoc", f"-I{proto}", f"--python_out={generated}", f"--grpc_python_out={generated}",
                    "weir/events/v1/events.proto"])
if code:
    sys.exit(f"protoc ends with {code}")
sys.path.insert(0, generated)
events = importlib.import_module("weir.events.v1.events_pb2")
services = importlib.import_module("weir.events.v1.events_pb2_grpc")

# How long a call may take: a restart of the other side among it.
DEADLINE = 50


def say(**fact):
    print(json.dumps(fact), flush=True)


# A channel that was refused waits for longer and longer; tests do not.
channel = grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 200),
                                                  ("grpc.initial_reconnect_backoff_ms", 100)])


def report(request):
    """Until it is taken: a daemon that restarts is no reason to give up, and the same report twice is one."""
    service = services.ReportServiceStub(channel)
    while True:
        try:
            answer = service.Report(request, timeout=DEADLINE, wait_for_ready=True)
            return answer.revision
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            time.sleep(0.1)


def obey(words):
    if words[0] == "report":
        kind, key, value, where = words[1:]
        wait = {"agent": events.ReportRequest.AGENT, "collector": events.ReportRequest.COLLECTOR}[where]
        revision = report(events.ReportRequest(kind=kind, key=key, value=value.encode(), wait=wait))
        say(reported=key, revision=revision)
    elif words[0] == "delete":
        say(reported=words[2], revision=report(events.ReportRequest(kind=words[1], key=words[2], deleted=True)))
    elif words[0] == "stream":
        requests = (events.ReportRequest(kind=words[1], key=f"k{n}", value=str(n).encode()) for n in range(int(words[2])))
        service = services.ReportServiceStub(channel)
        for answer in service.ReportStream(requests, timeout=DEADLINE, wait_for_ready=True):
            say(streamed=answer.revision, refused=answer.refused)
    else:
        sys.exit(f"no command: {words}")


def watch():
    service = services.WatchServiceStub(channel)
    cursor = b""
    while True:
        try:
            for answer in service.Watch(events.WatchRequest(cursor=cursor), wait_for_ready=True):
                what = answer.WhichOneof("event")
                if what == "started":
                    say(event=what, resumed=answer.started.resumed)
                elif what == "state":
                    state = answer.state
                    say(event=what, agent=state.agent, kind=state.kind, key=state.key, value=state.value.decode(),
                        standing=events.State.Standing.Name(state.standing), revision=state.revision)
                else:
                    say(event=what)
                cursor = answer.cursor or cursor
        except grpc.RpcError as error:
            say(event="broken", code=error.code().name)
        time.sleep(0.1)


say(pid=os.getpid())
if role == "watch":
    threading.Thread(target=watch, daemon=True).start()
for line in sys.stdin:
    command = line.strip()
    if role == "report":
        obey(command.split())
    print(json.dumps({"done": command}), flush=True)
