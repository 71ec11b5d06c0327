// Every loop of every instruction set, for the compiler's report in test_instruction_sets.py.
#include "instruction_sets.h"

namespace fsfast {

template <typename Function>
void keep(Function* function) {
  __asm__ volatile("" ::"r"(function));
}

void keep_all(InstructionSet set) {
  keep(FSFAST_FUNCTION(set, gather_pixels));
  keep(FSFAST_FUNCTION(set, write_run<uint32_t, 1>));
  keep(FSFAST_FUNCTION(set, load_floats));
  keep(FSFAST_FUNCTION(set, store_floats));
  keep(FSFAST_FUNCTION(set, denoise_row));
  keep(FSFAST_FUNCTION(set, normalise_row));
  keep(FSFAST_FUNCTION(set, weigh_rows));
  keep(FSFAST_FUNCTION(set, weigh_columns));
  keep(FSFAST_FUNCTION(set, products));
  keep(FSFAST_FUNCTION(set, add_scaled));
}

}  // namespace fsfast
