"""A name server on loopback that knows what a test tells it, and nothing else."""

import socket
import threading
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset


class Names:
    """`zone`: (name, kind) → records as they stand in a zone file. While it is open, all look-ups
    of this process come here. `silent`: it answers nothing at all."""

    def __init__(self, zone: dict[tuple[str, str], list[str]] | None = None) -> None:
        self.zone = zone or {}
        self.silent = False

    def txt(self, name: str, text: str) -> None:
        """Add a TXT record, cut as long ones must be."""
        pieces = [text[start : start + 200] for start in range(0, len(text), 200)]
        self.zone.setdefault((name, "TXT"), []).append(" ".join(f'"{one}"' for one in pieces))

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._before = dns.resolver.default_resolver
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self._socket.getsockname()[1]
        dns.resolver.default_resolver = resolver
        threading.Thread(target=self._serve, args=(self._socket,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        dns.resolver.default_resolver = self._before
        self._socket.close()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                data, peer = listening.recvfrom(4096)
            except OSError:
                return
            if self.silent:
                continue
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            asked = query.question[0]
            name = asked.name.to_text(omit_final_dot=True).lower()
            kind = dns.rdatatype.to_text(asked.rdtype)
            found = self.zone.get((name, kind))
            if found:
                answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", kind, *found))
            elif not any(known == name for known, _ in self.zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            listening.sendto(answer.to_wire(), peer)
