"""A redis-server of our own on a unix socket, durable enough to be killed."""

import redis

from .process import Process, plain_env, wait_for


class Redis:
    def __init__(self, directory):
        self.socket = str(directory / "redis.sock")
        self.url = f"unix://{self.socket}"
        self.client = redis.Redis(unix_socket_path=self.socket)
        self.process = Process("redis", [
            "redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", directory,
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy",
            "noeviction", "--daemonize", "no"], plain_env(), str(directory / "redis.log"))

    def start(self):
        self.process.start()
        wait_for("redis-server", self.answers)
        return self

    def answers(self):
        try:
            return self.client.ping()
        except redis.exceptions.RedisError:
            return False

    def kill(self):
        self.process.kill()

    def stop(self):
        self.process.kill()
