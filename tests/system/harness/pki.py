"""Certificates of a test run's own: an authority, and another one that nobody asked."""

import subprocess


class Authority:
    def __init__(self, directory, name):
        self.dir, self.ca, self.key = directory, directory / f"{name}.pem", directory / f"{name}-key.pem"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3", "-subj",
                      f"/CN={name}", "-keyout", self.key, "-out", self.ca)

    @staticmethod
    def _openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    def issue(self, name, use, san=None):
        """(certificate, key)"""
        cert, key, ask, ext = (self.dir / f"{name}{end}" for end in (".pem", "-key.pem", ".csr", ".ext"))
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", key,
                      "-out", ask)
        ext.write_text(f"extendedKeyUsage={use}\n" + (f"subjectAltName={san}\n" if san else ""))
        self._openssl("x509", "-req", "-in", ask, "-CA", self.ca, "-CAkey", self.key, "-CAcreateserial", "-days", "3", "-extfile", ext,
                      "-out", cert)
        return cert, key


class Pki:
    def __init__(self, directory):
        directory.mkdir()
        self.own, self.other = Authority(directory, "own-ca"), Authority(directory, "other-ca")
        self.server = self.own.issue("server", "serverAuth", "IP:127.0.0.1")
        self.client = self.own.issue("client", "clientAuth")
        self.stranger = self.other.issue("stranger", "clientAuth")
