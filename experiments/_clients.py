"""Other people's clients of OpenAI's API: what to install, and how each is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LIST = (
    '{"text": "Copy this twice: red, green, blue, red, green, blue."}\n'
    '{"text": "Count to ten, and then to ten again."}\n'
)
TASKS = {
    "choice.jsonl": '{"q": "The capital of France is", "c": [" Paris", " seven"], "a": 0}\n'
    '{"q": "Two and two make", "c": [" green", " four"], "a": 1}\n',
    "say.jsonl": '{"q": "Repeat exactly: tree", "a": "tree"}\n{"q": "Name the capital of France.", "a": "Paris"}\n',
    "choice.yaml": "task: choice\ndataset_path: json\ndataset_kwargs: {data_files: {test: choice.jsonl}}\n"
    "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: a\n"
    "target_delimiter: ''\nmetric_list: [{metric: acc}]\n",
    "say.yaml": "task: say\ndataset_path: json\ndataset_kwargs: {data_files: {test: say.jsonl}}\ntest_split: test\n"
    "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 24, do_sample: false}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
}
"""Two tasks of lm-eval and their data: one is scored by log-probabilities, one by generated text."""
MODELS = "- {{model_id: {name}, model_name: {name}, api_base: {url}/v1, api_key: x, supports_schema: true}}\n"
LITELLM = """
import litellm
chat = {"api_base": "URL/v1", "api_key": "x", "messages": [{"role": "user", "content": "Count to five."}],
        "max_tokens": 24, "temperature": 0}
whole = litellm.completion(model="hosted_vllm/NAME", **chat).choices[0].message.content
stream = litellm.completion(model="openai/NAME", stream=True, **chat)
assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in stream)
text = litellm.text_completion(model="text-completion-openai/NAME", api_base="URL/v1", api_key="x",
                               prompt="1 2 3 1 2 3", max_tokens=8, temperature=0)
print("a stream is the whole; a completion is", repr(text.choices[0].text))
"""
LANGCHAIN = """
from typing import Literal
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
class City(BaseModel):
    name: Literal["Paris", "Rome"]
    big: bool
def add(a: int, b: int) -> int:
    "Adds."
model = ChatOpenAI(base_url="URL/v1", api_key="x", model="NAME", temperature=0, max_tokens=40)
assert model.invoke("Hi.").content == "".join(chunk.content for chunk in model.stream("Hi."))
print("a stream is the whole; an object:", repr(model.with_structured_output(City).invoke("Name a city.")))
print("a call:", model.bind_tools([add], tool_choice="required").invoke("Add 2 and 3.").tool_calls[0]["args"])
"""
INSPECT = """
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
samples = [Sample(input="Repeat exactly: tree", target="tree"), Sample(input="Count: 1 2 3", target="4")]
task = Task(dataset=samples, solver=generate(), scorer=includes())
[log] = eval(task, model="openai-api/specdec/NAME", display="none", max_tokens=24, temperature=0)
assert log.status == "success", log.error
print("accuracy", log.results.scores[0].metrics["accuracy"].value, "of", log.results.completed_samples, "samples")
"""


@dataclass(frozen=True)
class Client:
    """How a client is called. In all texts URL, NAME and TOKENIZER stand for the server's address, its model's name and
    a folder with its tokenizer.

    Args:
        requirements: for pip; the first is the client itself.
        words: its command line; the first is a program of its environment.
        shows: pattern of what it prints that the page shows.
        files: name → text, in the folder where it runs.
        variables: for its environment.
        figures: file with what it says of drafts, as JSON; None if it says nothing.
    """

    requirements: tuple[str, ...]
    words: tuple[str, ...]
    shows: str
    files: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    figures: str | None = None


def program(text: str) -> dict[str, str]:
    """The file of a client that is a library."""
    return {"program.py": text.lstrip()}


PROGRAM = ("python", "program.py")
LM_EVAL = ("lm_eval", "run", "--include_path", ".", "--output_path", "out")
CLIENTS = {
    "lm-eval-completions": Client(
        ("lm_eval[api]==0.4.13",),
        (*LM_EVAL, "--model", "local-completions", "--tasks", "choice,say", "--model_args",
         "model=NAME,base_url=URL/v1/completions,num_concurrent=2"),
        r"\|(?:choice|say)\b.*", TASKS,
    ),
    "lm-eval-chats": Client(
        ("lm_eval[api]==0.4.13",),
        (*LM_EVAL, "--model", "local-chat-completions", "--tasks", "say", "--apply_chat_template", "--model_args",
         "model=NAME,base_url=URL/v1/chat/completions,num_concurrent=2"),
        r"\|say\b.*", TASKS,
    ),
    "litellm": Client(("litellm==1.110.2",), PROGRAM, r"^a stream.*", program(LITELLM),
                      {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}),
    "langchain-openai": Client(("langchain-openai==1.7.4",), PROGRAM, r"^a .*", program(LANGCHAIN)),
    "llm": Client(("llm==0.36",), ("llm", "-m", "NAME", "-o", "temperature", "0", "-o", "max_tokens", "60",
                                   "--schema", "name, age int", "A person."),
                  r"^\{.*", {"extra-openai-models.yaml": MODELS.format(name="NAME", url="URL")},
                  {"LLM_USER_PATH": "."}),
    "inspect-ai": Client(("inspect-ai==0.3.285", "openai>=2"), PROGRAM, r"^accuracy .*", program(INSPECT),
                         {"SPECDEC_BASE_URL": "URL/v1", "SPECDEC_API_KEY": "x"}),
    "guidellm": Client(
        ("guidellm==0.8.1",),
        ("guidellm", "run", "--backend", "kind=openai_http,target=URL,model=NAME", "--profile",
         "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=6", "--data",
         "kind=synthetic_text,prompt_tokens=32,output_tokens=24", "--tokenizer", "kind=hf_auto,model=TOKENIZER",
         "--output", "kind=json,path=out.json", "--disable-progress"),
        r".*successful=6 errored=0.*",
    ),
    "aiperf": Client(
        ("aiperf==0.13.0",),
        ("aiperf", "profile", "--model", "NAME", "--url", "URL", "--endpoint-type", "chat", "--streaming",
         "--tokenizer", "TOKENIZER", "--input-file", "texts.jsonl", "--custom-dataset-type", "single_turn",
         "--concurrency", "2", "--request-count", "6", "--ui", "none", "--artifact-dir", "out",
         "--extra-inputs", "max_completion_tokens:48"),
        r".*Accepted drafts per step.*", {"texts.jsonl": LIST}, figures="out/profile_export_aiperf.json",
    ),
}  # fmt: skip
