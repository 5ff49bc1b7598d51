"""A stop that comes before the vmm has anything to serve."""

import socket
import subprocess

from harness.process import plain_env
from harness.stack import BUILD


def test_a_stop_is_heard_while_an_engine_hangs(work_dir):
    """It takes connections and answers nothing. What is waited for is much longer than a stop may take."""
    where = work_dir / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(where))
        mute.listen(16)
        vmm = subprocess.Popen([BUILD / "milonga-vmm"], stderr=subprocess.PIPE, text=True, env=plain_env(
            MILONGA_DRIVER="docker-hosts", MILONGA_DOCKER_HOST=f"mute unix://{where}", MILONGA_DATA_DIR=work_dir / "mute",
            MILONGA_AUTODRIVER=BUILD / "autodriver", MILONGA_REDIS_URL="unix:///nonexistent"))
        try:
            connection, _ = mute.accept()
            connection.recv(1)
            vmm.terminate()
            _, text = vmm.communicate(timeout=8)
        finally:
            vmm.kill()
        connection.close()
    assert vmm.returncode == 0 and "event=vmm.down" in text, text
