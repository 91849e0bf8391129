"""Every state that the conditions of Realm's objects were ever in, by watches that miss none."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from http import HTTPStatus
from typing import Self

import httpx

from harness.folder import API_VERSION, Json
from harness.resources import PLURALS
from harness.user import User

#: The API server ends a watch by itself after so long, so that a thread that should end does.
WATCH_S = 5

#: Before a watch is tried again that nobody answered.
RETRY_S = 0.2

#: An object and one of its conditions.
Key = tuple[str, str, str]

#: Its status and the time of its last transition.
State = tuple[str, str]


class Turns:
    """Watches all objects of a namespace for as long as the block lasts."""

    def __init__(self, admin: User, namespace: str) -> None:
        self._admin = admin
        self._namespace = namespace
        self._is_over = threading.Event()
        self._states: dict[Key, list[State]] = defaultdict(list)
        self._threads = [
            threading.Thread(target=self._follow, args=(kind, self._list(kind))) for kind in PLURALS
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def turned(self) -> dict[Key, list[State]]:
        """The conditions that were not always as at the start, with all that they were."""
        return {key: states for key, states in self._states.items() if len(states) > 1}

    def seen(self) -> int:
        """How many conditions are watched."""
        return len(self._states)

    def _path(self, kind: str) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self._namespace}/{PLURALS[kind]}"

    def _list(self, kind: str) -> str:
        answer = self._admin.http.get(self._path(kind)).json()
        for thing in answer["items"]:
            self._note(kind, thing)
        return str(answer["metadata"]["resourceVersion"])

    def _follow(self, kind: str, version: str) -> None:
        while not self._is_over.is_set():
            try:
                version = self._watch(kind, version)
            except httpx.TransportError:
                self._is_over.wait(RETRY_S)

    def _watch(self, kind: str, version: str) -> str:
        """Follows until the server ends it; gives where to go on."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        with self._admin.http.stream("GET", self._path(kind), params=query) as answer:
            if not answer.is_success:
                # It starts and does not serve these resources yet.
                self._is_over.wait(RETRY_S)
                return version
            try:
                for line in answer.iter_lines():
                    thing = json.loads(line)["object"]
                    if thing.get("code") == HTTPStatus.GONE:
                        # It has started anew. What turned and turned back meanwhile has another
                        # time of its last transition.
                        return self._list(kind)
                    assert "spec" in thing, thing
                    version = thing["metadata"]["resourceVersion"]
                    self._note(kind, thing)
            except httpx.TransportError:
                return version
        return version

    def _note(self, kind: str, thing: Json) -> None:
        for each in thing.get("status", {}).get("conditions", []):
            states = self._states[kind, thing["metadata"]["name"], each["type"]]
            state = (each["status"], each["lastTransitionTime"])
            if not states or states[-1] != state:
                states.append(state)
