"""A connection to Redis that is cut in the middle of replies."""

import os
import random
import selectors
import socket
import threading


class Cutter:
    """Listens at `path` and passes all on to the unix socket `target`. While `every` is set it closes a connection each time that
    about so many bytes of replies have gone through it, wherever in a reply that is."""

    def __init__(self, path, seed=1):
        self.path, self.target, self.every, self.cuts = str(path), None, 0, 0
        self.random = random.Random(seed)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.wake, self.woken = os.pipe()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"unix://{self.path}"

    def _accept(self):
        client, _ = self.listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self.target)
        except OSError:
            client.close()
            server.close()
            return
        pair = {"sides": {client: server, server: client}, "server": server, "left": self._span()}
        for side in pair["sides"]:
            self.selector.register(side, selectors.EVENT_READ, pair)

    def _span(self):
        return self.random.randint(1, 2 * self.every) if self.every else None

    def _close(self, pair):
        for side in pair["sides"]:
            self.selector.unregister(side)
            side.close()

    def _pass(self, side, pair):
        try:
            data = side.recv(65536)
            if side is pair["server"] and self.every:
                pair["left"] = (pair["left"] or self._span()) - len(data)
                if pair["left"] <= 0:
                    pair["sides"][side].sendall(data[:len(data) + pair["left"]])  # the rest of the reply is lost
                    self.cuts += 1
                    data = b""
            if data:
                pair["sides"][side].sendall(data)
                return
        except OSError:
            pass
        self._close(pair)

    def _run(self):
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)
        while True:
            closed = set()
            for key, _ in self.selector.select():
                if key.fileobj == self.wake:
                    return
                if key.fileobj is self.listener:
                    self._accept()
                elif id(key.data) not in closed:
                    self._pass(key.fileobj, key.data)
                    if key.fileobj.fileno() < 0:
                        closed.add(id(key.data))

    def stop(self):
        os.write(self.woken, b"x")
        self.thread.join()
        self.listener.close()
        for fd in (self.wake, self.woken):
            os.close(fd)
