"""Two people with rights to single Dags, for Airflow's FAB auth manager. Run as a program in Airflow's environment."""

from __future__ import annotations

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

PASSWORD = "correct horse"
SEEN_DAG, HIDDEN_DAG = "ticket_labels", "private_notes"

_LOOK = [
    ("can_read", "Website"),
    ("menu_access", "Browse"),
    ("can_read", "Plugins"),
    ("can_read", "DAG Runs"),
    ("can_read", "Task Instances"),
    ("can_read", "XComs"),
]
ROLES = {
    # Sees one Dag and may change nothing.
    "reader": [*_LOOK, ("can_read", f"DAG:{SEEN_DAG}")],
    # Sees the other one, may mark its tasks and read their logs.
    "keeper": [
        *_LOOK,
        ("can_read", "Task Logs"),
        ("can_read", f"DAG:{HIDDEN_DAG}"),
        ("can_edit", f"DAG:{HIDDEN_DAG}"),
        ("can_edit", "DAG Runs"),
        ("can_edit", "Task Instances"),
    ],
    # May not read XComs at all.
    "guest": [("can_read", "Website"), ("can_read", "Plugins"), ("can_read", f"DAG:{SEEN_DAG}")],
}


def make_people() -> None:
    """Make each role and one person of the same name who has it."""
    with get_application_builder() as builder:
        people = builder.sm
        for name, rights in ROLES.items():
            role = people.add_role(name)
            for action, resource in rights:
                people.add_permission_to_role(role, people.create_permission(action, resource))
            assert people.add_user(name, name, "Person", f"{name}@example.org", role, PASSWORD)


if __name__ == "__main__":
    make_people()
