"""E3M0: a sign and three bits of exponent in blocks, i.e. zero and seven powers of two.

**Paper:** Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512: outer gradients travel in
E3M0, one sign bit and three bits of exponent, and are summed in fp32.
**Format:** as in `optim.codec.blockwise`, with s next to the block's absmax, a bf16. Code
`sign << 3 | e` is 0 for e = 0, else s 2^(e - 7): from s 2^-6 to s.
**Deviations:** The paper names the format, and neither how fine the scales are, nor the rounding,
nor what is zero; this is our reading.
- A scale for each block, the nearest bf16 to its absmax, which therefore keeps code 7.
- Rounding to the power next in ratio, so the relative error inside the range, from s 2^-6.5 on, is
  at most sqrt(2) - 1 (test_s7_inside_the_range_the_relative_error_is_at_most_sqrt_2_minus_1).
- Below the range to the nearer of s 2^-6 and 0: no scale could make ratios of what is next to zero
  (test_s7_below_the_range_it_is_the_nearer_of_zero_and_the_smallest_level).
- Zero keeps its sign, so that Q(Q(x)) = Q(x) and sign(Q(x)) = sign(x) hold to the bit
  (test_s7_quantizing_twice_is_quantizing_once, test_s7_the_sign_is_preserved).
"""

from dataclasses import dataclass

from optim.codec import kernels
from optim.codec.blockwise import Blockwise


@dataclass(frozen=True, slots=True)
class E3M0(Blockwise):
    """Half a byte an element, with the same relative error over a range of 2^6.5. Nearest only."""

    name = "e3m0"
    codec_id = 6
    roundings = ("nearest",)
    codes_a_byte = 2
    scale_bounds = (0x0380, 0x7149)
    write = staticmethod(kernels.write_e3m0)
    read = staticmethod(kernels.read_e3m0)

    block: int = 64
