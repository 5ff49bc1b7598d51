"""Between a service and Redis: what comes back can be held, or refused, or cut off."""

import os
import re
import socket
import threading


class Relay:
    """Listens on a socket of its own. A connection that has subscribed is told apart from those that ask."""

    def __init__(self, directory, target):
        self.path, self.target = str(directory / "relay.sock"), target
        self.url = f"unix://{self.path}"
        self.open = threading.Event()  # answers pass
        self.open.set()
        self.refusing = False  # scripts are answered with an error
        self.held = self.refused = self.subscriptions = 0
        self.subscribed, self.heard = set(), b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self._thread(self._accept)

    @staticmethod
    def _thread(what, *args):
        threading.Thread(target=what, args=args, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            self._thread(self._ask, client, server)
            self._thread(self._answer, client, server)

    @staticmethod
    def _end(*sockets):
        for s in sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _ask(self, client, server):
        try:
            while data := client.recv(1 << 16):
                if re.search(rb"\r\nSUBSCRIBE\r\n", data, re.I):
                    self.subscribed.add(client)
                    self.subscriptions += 1
                scripts = len(re.findall(rb"\r\nEVALSHA\r\n", data, re.I))
                if self.refusing and scripts:
                    self.refused += scripts
                    client.sendall(b"-NOPERM refused by the test\r\n" * scripts)
                else:
                    server.sendall(data)
        except OSError:
            pass
        self._end(client, server)

    def _answer(self, client, server):
        try:
            while data := server.recv(1 << 16):
                if client in self.subscribed:
                    self.heard += data
                elif not self.open.is_set():
                    self.held += 1
                    self.open.wait()
                client.sendall(data)
        except OSError:
            pass
        self.subscribed.discard(client)
        self._end(client, server)

    def cut_subscribers(self):
        self._end(*list(self.subscribed))

    def stop(self):
        self.open.set()
        self.listener.close()
        os.unlink(self.path)
