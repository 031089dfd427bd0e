"""An asyncio event loop under a virtual clock: the product's own coroutines, run by seed.

Nothing here waits. A sleep is an event on the clock's heap, and what is handed to a thread runs at
once, in the caller. So a run has one thread, one order of events, and its speed is the machine's.

Each callback belongs to the host in whose context it was made (`host_context`): a frozen host's
callbacks are held until it thaws, and a dead host's never run. A peer that is killed or stopped is
therefore just not run any more, in the middle of whatever it was doing, as by SIGKILL and SIGSTOP.
"""

import asyncio
import contextlib
import contextvars
import gc
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

from peer.sim.clock import VirtualClock

Result = TypeVar("Result")
Context = contextvars.Context


GARBAGE = 100_000
"""Objects made before Python looks for cycles among them."""


class Host(Protocol):
    """Whatever can be frozen or die."""

    def admits(self, callback: Callable[[], object]) -> bool:
        """Whether a callback may run now; otherwise the host has taken it, to run or drop it."""


_HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


def host_context(host: Host) -> Context:
    """Returns a context in which everything that is scheduled is the host's."""
    context = contextvars.copy_context()
    context.run(_HOST.set, host)
    return context


class _Event(asyncio.TimerHandle):
    """A callback that is due; unlike asyncio's own, it costs next to nothing."""

    __slots__ = ("_what", "_when_s", "_where", "_with")

    def __init__(
        self, when_s: float, callback: Callable[..., object], args: Any, context: Context
    ) -> None:
        self._when_s = when_s
        self._what: Callable[..., object] | None = callback
        self._with = args
        self._where = context

    def __call__(self) -> None:
        """Runs it, if its host admits that."""
        callback = self._what
        if callback is None:
            return
        host = self._where.get(_HOST)
        if host is None or host.admits(self):
            self._where.run(callback, *self._with)

    def cancel(self) -> None:
        """Makes it do nothing."""
        self._what = None
        self._with = ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._what is None

    def when(self) -> float:
        """Returns when it is due."""
        return self._when_s


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module docstring. What it does not have (sockets, signals), nobody here may use.

    Args:
        clock: Whose time it is; others may set events on it, too.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.problems: list[dict[str, Any]] = []
        """What asyncio reports to nobody in particular, such as errors that nobody awaited."""
        self._is_running = False
        self._is_closed = False

    # ---- scheduling

    def time(self) -> float:
        """Returns the virtual time."""
        return self.clock.now_s

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs a callback at a virtual time."""
        context = contextvars.copy_context() if context is None else context
        event = _Event(when, callback, args, context)
        self.clock.at(when, event)
        return event

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Runs a callback after a virtual delay."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Runs a callback at this time, after all that was scheduled before."""
        return self.call_at(self.time(), callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Is `call_soon`: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    # ---- futures and tasks

    def create_future(self) -> "asyncio.Future[Any]":
        """Returns a new future."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Result] | Generator[Any, None, Result],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> "asyncio.Task[Result]":
        """Starts a coroutine."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Result], *args: Any
    ) -> "asyncio.Future[Result]":
        """Runs a function at once; on virtual machines the mathematics takes no time."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - a future carries whatever it was
            future.set_exception(error)
        return future

    # ---- running

    def run_until_complete(self, future: Any) -> Any:
        """Runs events until a coroutine or future is done.

        Raises:
            RuntimeError: it waits for something that will never happen.
        """
        task = asyncio.ensure_future(future, loop=self)
        with self._running():
            while not task.done():
                if not self.clock.step():
                    raise RuntimeError(f"at {self.time():g} s nothing is due any more: {task!r}")
        return task.result()

    def run_until(self, time_s: float) -> None:
        """Runs everything that is due until then."""
        with self._running():
            self.clock.run(time_s)

    @contextlib.contextmanager
    def _running(self) -> Generator[None, None, None]:
        asyncio._set_running_loop(self)
        self._is_running = True
        thresholds = gc.get_threshold()
        gc.set_threshold(GARBAGE, *thresholds[1:])  # or a third of the time would go there
        try:
            yield
        finally:
            gc.set_threshold(*thresholds)
            self._is_running = False
            asyncio._set_running_loop(None)

    def is_running(self) -> bool:
        """Whether events are being run."""
        return self._is_running

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def close(self) -> None:
        """Cancels all tasks, and lets them end."""
        if not self._is_closed:
            tasks = asyncio.all_tasks(self)
            for task in sorted(tasks, key=_age):
                task.cancel()
            if tasks:
                self.run_until_complete(_all_of(tasks))
            self._is_closed = True

    async def shutdown_asyncgens(self) -> None:
        """Does nothing: generators are closed by their tasks."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Does nothing: there is no executor."""

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Does nothing."""

    # ---- errors

    def get_debug(self) -> bool:
        """Returns False."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keeps what asyncio reports, for `problems`."""
        self.problems.append(context)


def _age(task: "asyncio.Task[Any]") -> tuple[int, str]:
    name = task.get_name()  # "Task-7": numbered as they were made
    return len(name), name


async def _all_of(tasks: "set[asyncio.Task[Any]]") -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
