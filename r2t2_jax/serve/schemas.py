"""Requests of the chat API as typed models, and errors in OpenAI's format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

MAX_TOKENS = 1 << 20  # accepted as `max_tokens`; an answer is never longer than the server's own limit
MAX_PROMPT = 1 << 15  # characters of all texts of a request
MAX_STOPS, MAX_STOP = 16, 256  # stop texts, and characters of each
MAX_TOP_LOGPROBS = 20
RETURNS = ("routing", "neighbors", "path", "routes", "before")
ROLES = ("system", "developer", "user", "assistant")
SHOWN = 200  # characters of a request that an error repeats

INVALID, AUTHENTICATION, OVERLOADED, INTERNAL = (
    "invalid_request_error",
    "authentication_error",
    "overloaded_error",
    "server_error",
)


class ApiError(Exception):
    """An error as a reply.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do.
        param: the field of the request, such as `messages[0].content`.
        code: a word for programs.
        kind: one of OpenAI's types of errors.
        headers: of the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind = status, param, code, kind
        self.headers = dict(headers or {})

    def content(self) -> dict[str, Any]:
        """The body of the reply."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def without_folders(text: str) -> str:
    """A text in which paths of this machine are shortened to their last names."""
    return re.sub(r"(?<![\w.])~?/(?:[^\s/:'\"]+/)*", "", text)


def busy(seconds: int) -> ApiError:
    """The error for a full queue: try again after so many seconds."""
    message = f"the queue is full; try again in {seconds} s"
    return ApiError(429, message, code="queue_full", kind=OVERLOADED, headers={"Retry-After": str(seconds)})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ImageURL(_Strict):
    """The address of an image: a data URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(_Strict):
    """A text of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Strict):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Strict):
    """One message; `content` is a text or a list of texts and images."""

    role: str
    content: Annotated[list[Part], BeforeValidator(_as_parts), Field(min_length=1, max_length=64)]
    name: str | None = None
    refusal: None = None  # an assistant's message as a reply has it
    annotations: Annotated[list[Any] | None, Field(max_length=0)] = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any] | None, Field(max_length=0)] = None


class StreamOptions(_Strict):
    """Settings of a stream."""

    include_usage: bool = False
    include_obfuscation: bool | None = None  # of OpenAI's service; without effect


class Rerouting(_Strict):
    """The block `r2t2` of a request: how to re-route, and what to return."""

    strategy: str | None = None
    preset: str | None = None
    routing: list[Any] | None = None
    steer: dict[str, Any] | None = None
    returned: list[Literal["routing", "neighbors", "path", "routes", "before"]] = Field(
        default=["routing", "neighbors"], alias="return", max_length=8
    )


DEFAULTS = Rerouting()


class ChatRequest(_Strict):
    """The body of `POST /v1/chat/completions`. Fields of type `Any` are accepted at neutral values only."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=64)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    stop: Any = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    r2t2: Rerouting | None = None
    user: str | None = None  # these six are without effect here
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    n: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    reasoning_effort: Any = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def has_addresses(self) -> bool:
        """Whether an image has to be fetched."""
        parts = (part for message in self.messages for part in message.content)
        return any(isinstance(part, ImagePart) and part.image_url.url[:5].lower() != "data:" for part in parts)

    @property
    def limit(self) -> int:
        """The largest number of tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens or MAX_TOKENS

    @property
    def rerouting(self) -> Rerouting:
        """The block `r2t2`, or its defaults."""
        return self.r2t2 or DEFAULTS


NEUTRAL: Mapping[str, tuple[Any, ...]] = {  # by field: values that ask for nothing
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "reasoning_effort": ("none",),
}


def parse_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        ApiError: 400, with the field, if the body is not JSON, a field is missing, unknown, of a wrong type or out of
            range, or asks for something that is not offered.
    """
    try:
        body.decode("utf-8")
        request = ChatRequest.model_validate_json(body)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 (byte {error.start})", code="invalid_json") from None
    except ValidationError as error:
        raise _first_error(error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    for name, values in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and not any(type(value) is type(other) and value == other for other in values):
            if isinstance(value, float) and value in values:
                continue
            raise ApiError(400, f"{name} is not supported: leave it out", name, "unsupported_parameter")
    _check_stops(request.stop)
    _check_texts(request)
    if request.top_p not in (None, 1) and request.temperature:  # without effect on a greedy answer
        raise ApiError(400, "top_p is not supported: leave it out, or give 1", "top_p", "unsupported_parameter")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs", "invalid_value")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", "stream_options", "invalid_value")
    return request


def _check_stops(stop: Any) -> None:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise ApiError(400, "stop is a text or a list of texts", "stop", "invalid_type")
    if len(stops) > MAX_STOPS or any(not 0 < len(text) <= MAX_STOP for text in stops):
        message = f"stop has at most {MAX_STOPS} texts, each of 1 to {MAX_STOP} characters"
        raise ApiError(400, message, "stop", "invalid_value")


def _check_texts(request: ChatRequest) -> None:
    """Refuse other roles, an end without a question, long texts, and characters that are no text."""
    length = 0
    for i, message in enumerate(request.messages):
        if message.role not in ROLES:
            reason = f"role {message.role[:SHOWN]!r} is not supported: give {', '.join(ROLES)}"
            raise ApiError(400, reason, f"messages[{i}].role", "invalid_value")
        for j, part in enumerate(message.content):
            field = f"messages[{i}].content[{j}]"
            if isinstance(part, ImagePart):
                if message.role != "user":
                    raise ApiError(400, "an image belongs to the user's message", field, "invalid_value")
                continue
            length += len(part.text)
            if "\0" in part.text or re.search("[\ud800-\udfff]", part.text):
                raise ApiError(400, "the text has a NUL character or a lone surrogate", field, "invalid_value")
    if request.messages[-1].role != "user":
        raise ApiError(400, "the last message is the user's question", "messages", "invalid_value")
    if length > MAX_PROMPT:
        reason = f"the texts have {length:,} characters; at most {MAX_PROMPT:,} are read"
        raise ApiError(400, reason, "messages", "context_length_exceeded")


def _first_error(error: ValidationError) -> ApiError:
    """The first error of a validation, with the field as a user writes it."""
    first = error.errors(include_url=False, include_context=False)[0]
    kind, field = first["type"], field_of(first["loc"])
    if kind == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    if kind == "extra_forbidden":
        shown = field[:SHOWN]
        return ApiError(400, f"unknown field {shown or repr(shown)}: leave it out", shown, "unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"{field} is missing", field, "missing_required_parameter")
    if kind == "union_tag_invalid":
        message = f"{field}: a part has the type text or image_url; others, such as audio, are not supported"
        return ApiError(400, message, field, "unsupported_parameter")
    message = f"{field}: {first['msg']}" if field else "the body is not a JSON object"
    return ApiError(400, message, field or None, "invalid_value")


def field_of(path: Sequence[int | str]) -> str:
    """A path of pydantic as `messages[0].content[1].image_url.url`, without the tags of unions."""
    text, previous = "", None
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif not (isinstance(previous, int) and step in ("text", "image_url")):
            text += f".{step}" if text else step
        previous = step
    return text
