"""A TCP relay to a broker that can be slow, stand still, or want to be asked by CONNECT as an HTTP proxy."""

import socket
import threading
import time
from types import TracebackType

_CHUNK = 1024


class TcpRelay:
    """Relays connections to a port of localhost, until the end of a `with` block.

    Args:
        port: where to connect.
        bytes_per_s: maximum rate from the client to the broker.
        http_answer: with this, the client must first send CONNECT; the answer is `HTTP/1.1 <http_answer>`.

    Attributes:
        requests: the CONNECT requests, with their headers.

    """

    def __init__(self, port: int, *, bytes_per_s: float | None = None, http_answer: str | None = None) -> None:
        self._target = port
        self._chunk_s = 0.0 if bytes_per_s is None else _CHUNK / bytes_per_s
        self._http_answer = http_answer
        self._flowing = threading.Event()
        self._flowing.set()
        self.requests: list[str] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]

    def stand_still(self) -> None:
        """Relay nothing from now on, without closing anything."""
        self._flowing.clear()

    def __enter__(self) -> "TcpRelay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._http_answer is not None and not self._answer(client, self._http_answer):
                client.close()
                return
            broker = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        threading.Thread(target=self._pump, args=(broker, client, 0.0), daemon=True).start()
        self._pump(client, broker, self._chunk_s)

    def _answer(self, client: socket.socket, answer: str) -> bool:
        """Answer in pieces, as a slow proxy does."""
        request = b""
        while b"\r\n\r\n" not in request:
            data = client.recv(1024)
            if not data:
                return False
            request += data
        self.requests.append(request.decode())
        for piece in (f"HTTP/1.1 {answer}\r\n", "Via: 1.1 a proxy\r\n", "\r\n"):
            client.sendall(piece.encode())
            time.sleep(0.02)
        return answer.startswith("200")

    def _pump(self, source: socket.socket, sink: socket.socket, chunk_s: float) -> None:
        try:
            while data := source.recv(_CHUNK):
                time.sleep(chunk_s)
                self._flowing.wait()
                sink.sendall(data)
        except OSError:
            pass
        finally:
            self._flowing.wait()
            sink.close()
            source.close()
