"""The two recurrences of TKAN over whole sequences, each one autograd function with a backward pass by hand.

Autograd through a loop of small operations keeps and visits every one of them. Here a loop, in either direction, holds
only what must wait for the step before it; slopes and the gradients of parameters are one large operation each.
Tensors of all steps are cut into steps before a loop: indexing inside it would cost as much as the arithmetic.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kan_core.ops.bspline_linear.matrix import power_matrix

Candidate = Literal["sigmoid", "tanh_sigmoid", "tanh"]


class GateScan(torch.autograd.Function):
    """h_t = o_t ⊙ tanh(c_t), c_t = f ⊙ c_{t−1} + i ⊙ c̃ with gates from z_t + (h_{t−1} ⊙ keep) W: (h_1 … h_T, c_T).

    Args of ``apply``: z ``(T, B, 3u)`` in the order i, f, candidate; o ``(T, B, u)``; W ``(u, 3u)``; h_0 and c_0
    ``(B, u)``; mask ``(T, B, 1)`` bool or None: where it is False the states are copied; keep ``(B, u)`` or None, which
    has no gradient; the candidate convention.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        o: Tensor,
        weight: Tensor,
        h: Tensor,
        c: Tensor,
        mask: Tensor | None,
        keep: Tensor | None,
        candidate: Candidate,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, units = o.shape
        gates, tanh_c = z.new_empty(z.shape), o.new_empty(o.shape)  # contiguous, whatever their inputs are
        hs, cs = (o.new_empty(steps + 1, batch, units) for _ in range(2))
        hs[0], cs[0] = h, c
        h_at, c_at = hs.unbind(), cs.unbind()
        loop = zip(z.unbind(), o.unbind(), gates.unbind(), tanh_c.unbind(), strict=True)
        for t, (z_t, o_t, gate, squashed) in enumerate(loop):
            previous = h_at[t] if keep is None else h_at[t] * keep
            i, f, new = _activate(torch.addmm(z_t, previous, weight, out=gate), candidate)
            torch.mul(f, c_at[t], out=c_at[t + 1]).addcmul_(i, new)
            torch.tanh(c_at[t + 1], out=squashed)
            torch.mul(o_t, squashed, out=h_at[t + 1])
            if mask is not None:
                for states in (h_at, c_at):
                    states[t + 1].copy_(torch.where(mask[t], states[t + 1], states[t]))
        ctx.save_for_backward(gates, tanh_c, hs, cs, o, weight, mask, keep)
        ctx.candidate = candidate
        return hs[1:], cs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        gates, tanh_c, hs, cs, o, weight, mask, keep = ctx.saved_tensors
        units = o.shape[2]
        dz, forget = _gate_slopes(gates, cs[:-1], ctx.candidate)  # ∂c_t/∂z_t and ∂c_t/∂c_{t−1}
        slope = o * (1 - tanh_c * tanh_c)  # ∂h_t/∂c_t
        if mask is not None:  # a copied step has no slopes but those of the copy
            dz, slope, tanh_c, forget = dz * mask, slope * mask, tanh_c * mask, torch.where(mask, forget, 1.0)
            copied = (~mask).to(o.dtype).unbind()
        back, do, dc = weight.t(), torch.empty_like(tanh_c), grad_c.clone()
        *direct, dh = (torch.zeros_like(dc), *grad_h.unbind())  # nothing is returned before the first step
        loop = zip(dz.unbind(), do.unbind(), tanh_c.unbind(), slope.unbind(), forget.unbind(), direct, strict=True)
        for t, (dz_t, do_t, squashed, slope_t, f, before) in reversed(list(enumerate(loop))):
            torch.mul(dh, squashed, out=do_t)
            dc.addcmul_(dh, slope_t)
            dz_t.view(-1, 3, units).mul_(dc.unsqueeze(1))
            dc.mul_(f)
            through = torch.addmm(before, dz_t, back) if keep is None else torch.addcmul(before, dz_t @ back, keep)
            dh = through if mask is None else through.addcmul_(dh, copied[t])
        previous = hs[:-1] if keep is None else hs[:-1] * keep
        dweight = previous.reshape(-1, units).t() @ dz.view(-1, 3 * units)
        return dz, do, dweight, dh, dc, None, None, None


def _activate(gate: Tensor, candidate: Candidate) -> tuple[Tensor, Tensor, Tensor]:
    """Gates from their sums, in place, and the candidate."""
    units = gate.shape[-1] // 3
    if candidate == "tanh":
        gate[..., : 2 * units].sigmoid_()
        gate[..., 2 * units :].tanh_()
    else:
        gate.sigmoid_()
    i, f, new = gate.chunk(3, -1)
    return i, f, new.tanh() if candidate == "tanh_sigmoid" else new


def _gate_slopes(gates: Tensor, before: Tensor, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """∂c_t/∂z_t for all steps ``(T, B, 3u)``, and f; `gates` are those that `_activate` left."""
    slopes = gates * (1 - gates)
    i, f, new = gates.chunk(3, -1)
    of_i, of_f, of_new = slopes.chunk(3, -1)
    if candidate == "tanh":
        torch.mul(new, -new, out=of_new).add_(1)
    elif candidate == "tanh_sigmoid":
        new = new.tanh()
        of_new.mul_(1 - new * new)
    of_i.mul_(new)
    of_f.mul_(before)
    of_new.mul_(i)
    return slopes, f


class SplineBank(NamedTuple):
    """L sub-layers n = LayerNorm(s), o = [B(n), relu(n)] W + b as one batch; smaller splines are padded with zeros.

    An input has S features: 0, then the functions of the spline, 0, and relu(n). The two zeros take the functions of a
    cell that do not exist, beyond the first and the last.

    Attributes:
        gain: Of the LayerNorm, ``(L, 1, p)``.
        shift: Of the LayerNorm, ``(L, 1, p)``.
        weight: ``(L, S p, q)``.
        bias: ``(L, 1, q)``.
        low: Left end of the grid, ``(L, 1, p)``.
        step: Width of a cell, ``(L, 1, p)``.
        cells: Number of cells, ``(L, 1, 1)``; None where all orders are above 1, and it does not matter to which cell
            the grid's end belongs.
        pieces: Factors of f^j in the functions of a cell, ``(k + 1 powers, k + 1 functions, L, 1, 1)``.
        eps: Of the LayerNorm.
    """

    gain: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor
    low: Tensor
    step: Tensor
    cells: Tensor | None
    pieces: Tensor
    eps: float

    def empty_features(self, like: Tensor) -> Tensor:
        """Room for the features of inputs ``(..., p)``: zeros ``(..., S, p)``."""
        inputs = like.shape[-1]
        return like.new_zeros(*like.shape[:-1], self.weight.shape[1] // inputs, inputs)

    def fill(self, features: Tensor, n: Tensor, *, slopes: bool = False) -> None:
        """Write the features of n ``(..., L, B, p)``, or their derivatives, into zeros ``(..., L, B, S, p)``."""
        v = (n - self.low) / self.step
        cell = v.floor()
        if self.cells is not None:  # the grid's last cell is closed, as in kan_core.bases.BSpline
            at_end = (v >= self.cells) & (v <= self.cells * (1 + 4 * torch.finfo(v.dtype).eps))
            cell = torch.where(at_end, self.cells - 1, cell)
        values = self._functions(v - cell, slopes)
        offset = torch.arange(1, len(values) + 1, device=n.device).unsqueeze(-1)
        number = (cell.long().unsqueeze(-2) + offset).clamp_(0, features.shape[-2] - 2)
        features.scatter_(-2, number, values.movedim(0, -2))
        base = features[..., -1, :]
        base.copy_(n > 0) if slopes else torch.clamp(n, min=0, out=base)

    def _functions(self, f: Tensor, slopes: bool) -> Tensor:
        """The functions of a cell at the position f in it, or their derivatives: ``(...) -> (k + 1, ...)``."""
        factors = list(self.pieces.unbind())
        if slopes:
            factors = [j * factor / self.step for j, factor in enumerate(factors)][1:]
        if f.dim() > 3:  # steps stand before the L sub-layers
            factors = [factor.unsqueeze(1) for factor in factors]
        if not factors:  # of constants
            return torch.zeros_like(f).unsqueeze(0)
        value = factors[-1] + f * 0  # a constant, too, is a function of f: NaN must come through
        for factor in factors[-2::-1]:
            value = torch.addcmul(factor, value, f)
        return value


def pieces_of(orders: list[int], like: Tensor) -> Tensor:
    """The factors of :class:`SplineBank` for splines of these degrees, in the type and on the device of `like`."""
    most = max(orders) + 1
    table = torch.zeros(most, most, len(orders), 1, 1, dtype=torch.float64)
    for number, order in enumerate(orders):
        table[: order + 1, : order + 1, number, 0, 0] = torch.tensor(power_matrix(order), dtype=torch.float64)
    return table.to(like)


class MemoryScan(torch.autograd.Function):
    """o_t = KAN(x_t + m_{t−1} R), m_t = α_t ⊙ o_t + β_t ⊙ m_{t−1} of L sub-layers: (o_1 … o_T, m_T).

    Args of ``apply``: x ``(T, L, B, p)``; m_0 ``(L, B, q)``; R ``(L, q, p)``; α and β ``(T or 1, L, B or 1, q)``;
    then the fields of a :class:`SplineBank`. The grid has no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, m: Tensor, recurrent: Tensor, alpha: Tensor, beta: Tensor, *bank: Any
    ) -> tuple[Tensor, Tensor]:
        splines = SplineBank(*bank)
        steps, layers, batch, inputs = x.shape
        sums, features = x.new_empty(x.shape), splines.empty_features(x)
        os = x.new_empty(steps, layers, batch, m.shape[2])
        ms = x.new_empty(steps + 1, layers, batch, m.shape[2])
        ms[0] = m
        m_at, (a, b) = ms.unbind(), (v.expand(steps, -1, -1, -1).unbind() for v in (alpha, beta))
        loop = zip(x.unbind(), sums.unbind(), features.unbind(), os.unbind(), a, b, strict=True)
        for t, (x_t, s, feature, o, a_t, b_t) in enumerate(loop):
            torch.baddbmm(x_t, m_at[t], recurrent, out=s)
            normed = torch.native_layer_norm(s, [inputs], None, None, splines.eps)[0]
            splines.fill(feature, torch.addcmul(splines.shift, normed, splines.gain))
            torch.baddbmm(splines.bias, feature.flatten(2), splines.weight, out=o)
            torch.mul(b_t, m_at[t], out=m_at[t + 1]).addcmul_(a_t, o)
        ctx.save_for_backward(sums, os, ms, features, recurrent, alpha, beta, *bank[:-1])
        ctx.eps = splines.eps
        return os, ms[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_o: Tensor, grad_m: Tensor) -> tuple[Tensor | None, ...]:
        sums, os, ms, features, recurrent, alpha, beta = ctx.saved_tensors[:7]
        splines = SplineBank._make((*ctx.saved_tensors[7:], ctx.eps))
        steps, _, _, inputs = sums.shape
        normed, mean, rstd = torch.native_layer_norm(sums, [inputs], None, None, ctx.eps)
        slopes = torch.zeros_like(features)
        splines.fill(slopes, torch.addcmul(splines.shift, normed, splines.gain), slopes=True)
        do, dms, ds, dn = torch.empty_like(os), torch.empty_like(os), torch.empty_like(sums), torch.empty_like(sums)
        across, back, dm = splines.weight.transpose(1, 2), recurrent.transpose(1, 2), grad_m
        a, b = (v.expand(steps, -1, -1, -1) for v in (alpha, beta))
        loop = zip(*(v.unbind() for v in (grad_o, do, dms, ds, dn, slopes, sums, mean, rstd, a, b)), strict=True)
        for grad, do_t, dm_t, ds_t, dn_t, slope, s, mean_t, rstd_t, a_t, b_t in reversed(list(loop)):
            dm_t.copy_(dm)
            torch.addcmul(grad, a_t, dm, out=do_t)
            torch.sum(torch.bmm(do_t, across).view_as(slope).mul_(slope), -2, out=dn_t)
            dnormed = dn_t * splines.gain
            ds_t.copy_(_layer_norm_backward(dnormed, s, [inputs], mean_t, rstd_t, None, None, [True, False, False])[0])
            dm = torch.baddbmm(b_t * dm, ds_t, back)
        dalpha, dbeta = (dms * os).sum_to_size(alpha.shape), (dms * ms[:-1]).sum_to_size(beta.shape)
        dgain, dshift = (dn * normed).sum((0, 2)).unsqueeze(1), dn.sum((0, 2)).unsqueeze(1)
        dweight, dbias = _over_steps(features.flatten(3), do), do.sum((0, 2)).unsqueeze(1)
        dbank = (dgain, dshift, dweight, dbias, None, None, None, None, None)
        return ds, dm, _over_steps(ms[:-1], ds), dalpha, dbeta, *dbank


_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def _over_steps(a: Tensor, b: Tensor) -> Tensor:
    """Σ over steps and batch of a ⊗ b: ``(T, L, B, i), (T, L, B, j) -> (L, i, j)``."""
    a, b = (v.transpose(0, 1).flatten(1, 2) for v in (a, b))
    return a.transpose(1, 2) @ b
