"""What the embedded upstream knows: recorded answers of the GitHub REST API, and what calls have changed since.

Decides the answer to one request, without sockets. A repository exists until it is deleted; its issues, labels and
collaborators start from the recorded ones, with owner and name replaced by those that were asked for. Only as much
of the API as ``connectors/github.yaml`` lists.

For development and tests. It keeps everything in memory and forgets it at the end.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote

from msgspec import Struct

Json = dict[str, object]

#: The repositories of the recorded bodies; their names are replaced.
_RECORDED_OWNER: Final = "octokit-fixture-org"
_RECORDED_REPOS: Final = ("hello-world", "paginate-issues", "labels", "search-issues", "create-file")
_TAG_BLOCK: Final = 0xE0000
_DOCS: Final = "https://docs.github.com/rest"
_NOT_FOUND: Final[Json] = {"message": "Not Found", "documentation_url": _DOCS, "status": "404"}
#: Body of an answer to a missing or wrong credential.
BAD_CREDENTIALS: Final[Json] = {"message": "Bad credentials", "documentation_url": _DOCS, "status": "401"}


class Planted(Struct, frozen=True, kw_only=True):
    """What an issue's body carries that must not reach an agent.

    Attributes:
        issue_number: which issue, in every repository.
        secret: text that looks like a credential; empty for none.
        hidden: ASCII text written in the invisible tag block; empty for none.
        echo_credential: whether the body repeats the bearer token that the call came with.
    """

    issue_number: int = 13
    secret: str = ""
    hidden: str = ""
    echo_credential: bool = False


class Answer(Struct, frozen=True, kw_only=True):
    """Status and JSON body; None for no body."""

    status: int
    body: object = None


class Asked(Struct, frozen=True, kw_only=True):
    """One request, read: path segments are decoded."""

    method: str
    segments: tuple[str, ...]
    body: Json
    token: str


def hide(text: str) -> str:
    """ASCII text in the tag block (U+E0020 to U+E007E): shown as nothing, read by a language model."""
    return "".join(chr(_TAG_BLOCK + ord(character)) for character in text)


class _Repo:
    """One repository and what belongs to it."""

    def __init__(self, recorded: Mapping[str, str], owner: str, name: str) -> None:
        self.owner, self.name = owner, name
        self.is_deleted = False
        self._recorded = recorded
        self.issues = cast("list[Json]", self.load("issues"))
        self.labels = cast("list[Json]", self.load("labels"))
        self.collaborators = cast("list[Json]", self.load("collaborators"))
        self.comments: dict[int, list[Json]] = {}
        self.files: dict[str, str] = {"README.md": base64.b64encode(f"# {name}\n".encode()).decode()}

    def load(self, body: str) -> object:
        """A recorded body under this repository's name."""
        text = self._recorded[body]
        for recorded in _RECORDED_REPOS:
            text = text.replace(f"{_RECORDED_OWNER}/{recorded}", f"{self.owner}/{self.name}")
            text = text.replace(f'"name": "{recorded}"', f'"name": "{self.name}"')
        return json.loads(text.replace(_RECORDED_OWNER, self.owner))

    def issue(self, number: str) -> Json | None:
        """The issue with this number."""
        return next((issue for issue in self.issues if str(issue["number"]) == number), None)


class RecordedGitHub:
    """Answers as the GitHub API would, from recorded bodies."""

    def __init__(self, bodies: Path, planted: Planted | None = None) -> None:
        """Reads the recorded bodies.

        Args:
            bodies: folder of ``*.json`` files.
            planted: what an issue carries.
        """
        self._recorded = {path.stem: path.read_text(encoding="utf-8") for path in sorted(bodies.glob("*.json"))}
        self._planted = planted
        self._repos: dict[tuple[str, str], _Repo] = {}
        self._routes: dict[str, Callable[[_Repo, Asked, tuple[str, ...]], Answer]] = {
            "issues": self._issues,
            "labels": self._labels,
            "contents": self._contents,
            "collaborators": self._collaborators,
            "pulls": lambda _repo, _asked, _rest: Answer(status=200, body=[]),
            "git": self._git,
        }

    def answer(self, method: str, path: str, body: bytes, token: str) -> Answer:
        """The answer to one request whose credential is right."""
        try:
            content = json.loads(body) if body else {}
        except ValueError:
            return Answer(status=400, body={"message": "Problems parsing JSON", "documentation_url": _DOCS})
        asked = Asked(
            method=method,
            segments=tuple(unquote(segment) for segment in path.strip("/").split("/")),
            body=content if isinstance(content, dict) else {},
            token=token,
        )
        match asked.segments:
            case ("repos", owner, name, *rest):
                return self._in_repo(asked, owner, name, tuple(rest))
            case ("orgs", owner, "repos") if method == "POST":
                return Answer(status=201, body=self._repo(owner, str(asked.body.get("name"))).load("repository"))
            case ("search", "issues") if method == "GET":
                return Answer(status=200, body=json.loads(self._recorded["search-issues"]))
        return Answer(status=404, body=_NOT_FOUND)

    def _repo(self, owner: str, name: str) -> _Repo:
        if (owner, name) not in self._repos:
            self._repos[owner, name] = _Repo(self._recorded, owner, name)
        return self._repos[owner, name]

    def _in_repo(self, asked: Asked, owner: str, name: str, rest: tuple[str, ...]) -> Answer:
        repo = self._repo(owner, name)
        if repo.is_deleted:
            return Answer(status=404, body=_NOT_FOUND)
        if not rest:
            if asked.method == "DELETE":
                repo.is_deleted = True
                return Answer(status=204)
            return Answer(status=200, body=repo.load("repository"))
        route = self._routes.get(rest[0])
        return route(repo, asked, rest[1:]) if route else Answer(status=404, body=_NOT_FOUND)

    def _issues(self, repo: _Repo, asked: Asked, rest: tuple[str, ...]) -> Answer:
        if not rest:
            if asked.method == "POST":
                return self._create_issue(repo, asked)
            return Answer(status=200, body=[self._shown(issue, asked) for issue in repo.issues])
        issue = repo.issue(rest[0])
        if issue is None:
            return Answer(status=404, body=_NOT_FOUND)
        if rest[1:] == ("comments",):
            return self._comments(repo, asked, int(rest[0]))
        if asked.method == "PATCH":
            issue.update(asked.body)
        return Answer(status=200, body=self._shown(issue, asked))

    def _create_issue(self, repo: _Repo, asked: Asked) -> Answer:
        if not asked.body.get("title"):
            return Answer(status=422, body=json.loads(self._recorded["validation-failed"]))
        number = 1 + max(cast(int, issue["number"]) for issue in repo.issues)
        address = f"https://api.github.com/repos/{repo.owner}/{repo.name}/issues/{number}"
        created = {**repo.issues[0], "number": number, "url": address, "body": None, "labels": [], **asked.body}
        repo.issues.insert(0, created)
        return Answer(status=201, body=created)

    def _comments(self, repo: _Repo, asked: Asked, number: int) -> Answer:
        comments = repo.comments.setdefault(number, [])
        if asked.method != "POST":
            return Answer(status=200, body=comments)
        comments.append({"id": len(comments) + 1, "body": asked.body.get("body"), "user": repo.issues[0]["user"]})
        return Answer(status=201, body=comments[-1])

    def _labels(self, repo: _Repo, asked: Asked, rest: tuple[str, ...]) -> Answer:
        if asked.method == "POST":
            repo.labels.append({"id": 1000 + len(repo.labels), "default": False, **asked.body})
            return Answer(status=201, body=repo.labels[-1])
        if asked.method == "DELETE" and rest:
            kept = [label for label in repo.labels if label["name"] != rest[0]]
            is_found, repo.labels = len(kept) < len(repo.labels), kept
            return Answer(status=204) if is_found else Answer(status=404, body=_NOT_FOUND)
        return Answer(status=200, body=repo.labels)

    def _contents(self, repo: _Repo, asked: Asked, rest: tuple[str, ...]) -> Answer:
        path = "/".join(rest)
        if asked.method == "PUT":
            status = 200 if path in repo.files else 201
            repo.files[path] = str(asked.body.get("content", ""))
            return Answer(status=status, body=repo.load("file-created"))
        if path not in repo.files:
            return Answer(status=404, body=_NOT_FOUND)
        entry = cast(Json, repo.load("readme"))
        named = {"name": rest[-1], "path": path, "encoding": "base64", "content": repo.files[path]}
        return Answer(status=200, body={**entry, **named})

    def _collaborators(self, repo: _Repo, asked: Asked, rest: tuple[str, ...]) -> Answer:
        if asked.method == "PUT" and rest:
            repo.collaborators.append({"login": rest[0], "role_name": asked.body.get("permission")})
            return Answer(status=201, body=repo.load("invitation"))
        if asked.method == "DELETE" and rest:
            repo.collaborators = [user for user in repo.collaborators if user["login"] != rest[0]]
            return Answer(status=204)
        return Answer(status=200, body=repo.collaborators)

    def _git(self, _repo: _Repo, asked: Asked, rest: tuple[str, ...]) -> Answer:
        is_branch = asked.method == "DELETE" and rest[:1] == ("refs",)
        return Answer(status=204) if is_branch else Answer(status=404, body=_NOT_FOUND)

    def _shown(self, issue: Json, asked: Asked) -> Json:
        planted = self._planted
        if planted is None or issue["number"] != planted.issue_number:
            return issue
        body = f"Deploys fail since Tuesday. {planted.secret}{hide(planted.hidden)}"
        return {**issue, "body": body + (f" seen: {asked.token}" if planted.echo_credential else "")}
