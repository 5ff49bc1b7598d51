"""The rows of the table."""

from . import local, remote

KINDS = [local.Docker, local.Podman, remote.DockerTls, remote.DockerSsh, local.Oci, remote.SshContainer, remote.SshDirect, remote.Ec2]
