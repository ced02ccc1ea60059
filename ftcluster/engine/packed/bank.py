"""The numbers of all adapters of one rank bucket: one row per trial, every site's A and B at fixed places in it.

    row k   | A of site 0 [R, in] | B of site 0 [out, R] | A of site 1 | B of site 1 | ...        P numbers

Masters, gradients and both moments are such tables, [K, P], fp32 at least; where products are computed in a
shorter type there is a shadow of the masters in it. One elementwise pass over the tables is the optimizer step of
all trials. Rows of A and columns of B beyond a trial's rank are zero and stay zero, since their gradients are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ftcluster.engine.packed.adamw import Update, adamw_, clip_factor
from ftcluster.engine.shortage import is_shortage, let_go

BUCKETS = (8, 16, 32, 64, 128, 256)
_TABLES = ("master", "gradient", "first", "second")


@dataclass(frozen=True)
class Site:
    """A linear layer that adapters may sit on."""

    path: str  # in the model, such as model.layers.0.self_attn.q_proj
    inputs: int
    outputs: int


def bucket_of(rank: int) -> int:
    """The smallest bucket that holds a rank; ranks beyond the largest get one of their own."""
    return next((size for size in BUCKETS if size >= rank), rank)


class Bank:
    """One bucket's tables. Rows are given out and taken back; a free row is all zeros."""

    def __init__(
        self, sites: Sequence[Site], rank: int, *, master: torch.dtype, compute: torch.dtype, device: torch.device
    ) -> None:
        self.rank = rank
        self.compute, self.device = compute, device
        self._places: list[tuple[int, int, int]] = []  # start of A, start of B, end
        at = 0
        for site in sites:
            middle = at + rank * site.inputs
            end = middle + rank * site.outputs
            self._places.append((at, middle, end))
            at = end
        self._sites = list(sites)
        self._width = at
        self._is_b = torch.zeros(at, dtype=torch.bool, device=device)
        for _, middle, end in self._places:
            self._is_b[middle:end] = True
        self.master, self.gradient, self.first, self.second = (
            torch.zeros(0, at, dtype=master, device=device) for _ in _TABLES
        )
        self._shadow = self.master if compute == master else torch.zeros(0, at, dtype=compute, device=device)
        self._free: list[int] = []

    @property
    def bytes(self) -> int:
        """Memory of all tables."""
        tables = {id(table): table for table in (*(getattr(self, name) for name in _TABLES), self._shadow)}
        return sum(table.nbytes for table in tables.values())

    @property
    def row_bytes(self) -> int:
        """Memory of one row of all tables."""
        shadow = 0 if self.compute == self.master.dtype else self.compute.itemsize
        return self._width * (len(_TABLES) * self.master.dtype.itemsize + shadow)

    @property
    def growth(self) -> int:
        """Bytes that the next trial takes: nothing where a row is free, else new tables beside the old ones."""
        return 0 if self._free else self.row_bytes * (len(self.master) + max(1, len(self.master)))

    @property
    def empty(self) -> bool:
        """Whether no trial holds a row."""
        return len(self._free) == len(self.master)

    def take(self) -> int:
        """A row of zeros for a new trial."""
        if not self._free:
            self._grow()
        return self._free.pop(0)

    def give_back(self, row: int) -> None:
        """Zero a row and let it be taken again."""
        for name in _TABLES:
            getattr(self, name)[row].zero_()
        self._shadow[row].zero_()
        self._free = sorted([*self._free, row])

    def _grow(self) -> None:
        have = len(self.master)
        more = max(1, have)
        old = [*(getattr(self, name) for name in _TABLES), *([] if self._shadow is self.master else [self._shadow])]
        # All of them before any is put in place: without memory for one, the bank stays as it is.
        grown = [torch.cat([table, table.new_zeros(more, self._width)]) for table in old]
        self.master, self.gradient, self.first, self.second = grown[:4]
        self._shadow = grown[-1] if len(grown) > 4 else self.master
        self._free = list(range(have, have + more))

    # Views -------------------------------------------------------------------------------------------------------

    def a(self, row: int, site: int) -> Tensor:
        """A of one site as products are computed with it, [R, in]."""
        return self._view_a(self._shadow, row, site)

    def b(self, row: int, site: int) -> Tensor:
        """B of one site as products are computed with it, [out, R]."""
        return self._view_b(self._shadow, row, site)

    def add_gradient(self, row: int, site: int, a_RI: Tensor, b_OR: Tensor) -> None:
        """Add to the gradients of one site."""
        self._view_a(self.gradient, row, site).add_(a_RI)
        self._view_b(self.gradient, row, site).add_(b_OR)

    def stacked(self, rows: Sequence[int], site: int) -> tuple[Tensor, Tensor]:
        """A [G, R, in] and B [G, out, R] of several rows at one site, as products are computed with them."""
        a_KRI, b_KOR = self._site(self._shadow, site)
        return (a_KRI, b_KOR) if self._are_all(rows) else (a_KRI[list(rows)], b_KOR[list(rows)])

    def add_gradients(self, rows: Sequence[int], site: int, a_GRI: Tensor, b_GOR: Tensor) -> None:
        """Add to the gradients of several rows, which are different ones, at one site."""
        for table, values in zip(self._site(self.gradient, site), (a_GRI, b_GOR), strict=True):
            if self._are_all(rows):
                table.add_(values)
            else:
                table.index_add_(0, torch.tensor(rows, device=self.device), values.to(table.dtype))

    def _are_all(self, rows: Sequence[int]) -> bool:
        return list(rows) == list(range(len(self.master)))

    def read(self, table: str, row: int, site: int, rank: int) -> tuple[Tensor, Tensor]:
        """A trial's own A [rank, in] and B [out, rank] of a table, as views."""
        values = getattr(self, table)
        return self._view_a(values, row, site)[:rank], self._view_b(values, row, site)[:, :rank]

    def clear_gradient(self, row: int) -> None:
        """Forget a row's gradients."""
        self.gradient[row].zero_()

    def clear_state(self, row: int) -> None:
        """Forget a row's gradients and moments."""
        for table in (self.gradient, self.first, self.second):
            table[row].zero_()

    def refresh(self, row: int) -> None:
        """Bring the shadow of a row up to its masters."""
        if self._shadow is not self.master:
            self._shadow[row].copy_(self.master[row])

    def _site(self, table: Tensor, site: int) -> tuple[Tensor, Tensor]:
        start, middle, end = self._places[site]
        size = self._sites[site]
        a_KRI = table[:, start:middle].view(-1, self.rank, size.inputs)
        return a_KRI, table[:, middle:end].view(-1, size.outputs, self.rank)

    def _view_a(self, table: Tensor, row: int, site: int) -> Tensor:
        start, middle, _ = self._places[site]
        return table[row, start:middle].view(self.rank, self._sites[site].inputs)

    def _view_b(self, table: Tensor, row: int, site: int) -> Tensor:
        _, middle, end = self._places[site]
        return table[row, middle:end].view(self._sites[site].outputs, self.rank)

    # Steps -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, updates: Mapping[int, Update]) -> dict[int, float]:
        """One optimizer step of the given rows, and of no other; returns each row's gradient norm before clipping.

        Where memory is not enough for all of them at once, one after the other: a row's bits are the same.
        """
        try:
            return self._step(updates)
        except Exception as error:
            if len(updates) == 1 or not is_shortage(error):
                raise
            let_go(error)
        return {row: norm for row, update in updates.items() for norm in self._step({row: update}).values()}

    def _step(self, updates: Mapping[int, Update]) -> dict[int, float]:
        """No table is changed before everything new was computed."""
        rows = list(updates)
        # Row by row, so that the order of summation cannot depend on how many rows are stepped together.
        norms = {row: float(torch.linalg.vector_norm(self.gradient[row])) for row in rows}
        index = torch.tensor(rows, device=self.device)
        gradient = self.gradient[index]
        for place, row in enumerate(rows):
            factor = clip_factor(norms[row], updates[row].settings.clip)
            if factor != 1.0:
                gradient[place].mul_(factor)
        master, first, second = self.master[index], self.first[index], self.second[index]
        adamw_(master, gradient, first, second, [updates[row] for row in rows], self._is_b)
        self.master[index], self.first[index], self.second[index] = master, first, second
        self.gradient[index] = 0
        if self._shadow is not self.master:
            self._shadow[index] = master.to(self.compute)
        return norms
