// Times a saved engine where there is no Python.
#include <it3/it3.h>

#include "blocks.h"

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const Arguments arguments(argv);
  it3::Engine engine = it3::Engine::load(arguments.engine);
  engine.options.num_steps = arguments.steps;
  time_blocks(arguments.calls, [&] { engine.adapt(arguments.inputs); });
}
