"""What is told of an object besides its status: events, and how often anything is written."""

from __future__ import annotations

from harness.plane import Operator, Plane


def events_of(plane: Plane, name: str) -> list[tuple[str, str]]:
    """What was told of an object, by type and reason, oldest first; repeats as often as told."""
    items = plane.cluster.admin.get("events.events.k8s.io", namespace=plane.tenants)["items"]
    of_object = [each for each in items if each["regarding"]["name"] == name]
    of_object.sort(key=lambda each: str(each["eventTime"]))
    told = []
    for each in of_object:
        times = each.get("series", {}).get("count", 1)
        told += [(each["type"], each["reason"])] * times
    return told


def status_writes(plane: Plane, operator: Operator, name: str) -> int:
    """How often the operator has written the status of an object."""
    refs = [write["objectRef"] for write in plane.cluster.writes(operator.name)]
    return sum(ref.get("subresource") == "status" and ref.get("name") == name for ref in refs)


def notes_of(plane: Plane, name: str, reason: str) -> list[str]:
    """What was said in the events of one reason, oldest first."""
    items = plane.cluster.admin.get("events.events.k8s.io", namespace=plane.tenants)["items"]
    of_reason = [
        each for each in items if (each["regarding"]["name"], each["reason"]) == (name, reason)
    ]
    of_reason.sort(key=lambda each: str(each["eventTime"]))
    return [str(each["note"]) for each in of_reason]
