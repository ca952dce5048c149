// Writes an oracle as an ONNX graph of fixed shapes: the attention core, or one layer of the small transformer.

#include <twoheads/onnx/export.hpp>
#include <twoheads/onnx/write.hpp>

#include "support/arguments.hpp"

namespace {

enum class GraphWord { core, transformer };

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes an oracle as an ONNX graph of fixed shapes.", "twoheads_export");
  twoheads::OnnxSpec spec;
  spec.rows = 64;
  spec.key_cols = spec.value_cols = spec.width = 16;
  GraphWord graph = GraphWord::core;
  std::string output;
  programs::add_choice<GraphWord>(app, "--graph", graph,
                                  {{"core", GraphWord::core}, {"transformer", GraphWord::transformer}},
                                  "attention of given q, k and v, or a layer of the small transformer (default core)");
  programs::add_choice<twoheads::OracleKind>(
      app, "--oracle", spec.kind, {{"plain", twoheads::OracleKind::plain}, {"causal", twoheads::OracleKind::causal}},
      "rows see every row, or themselves and those before (default plain)");
  programs::add_count(app, "--rows", spec.rows, 1, "rows of a call (default 64)");
  programs::add_count(app, "--heads", spec.heads, 1, "heads (default 1)");
  programs::add_count(app, "--key-cols", spec.key_cols, 1, "columns of a head's queries and keys (default 16)");
  programs::add_count(app, "--value-cols", spec.value_cols, 1, "columns of a head's values (default 16)");
  programs::add_count(app, "--width", spec.width, 1, "columns of a token row of the transformer (default 16)");
  programs::add_count(app, "--batch", spec.batch, 1, "calls that are answered at once (default 1)");
  programs::add_positive(app, "--score-scale", spec.score_scale, "what q . k is multiplied by (default 1)");
  programs::add_choice<twoheads::OnnxNumber>(
      app, "--scalar", spec.number,
      {{"float", twoheads::OnnxNumber::float32}, {"double", twoheads::OnnxNumber::float64}},
      "numbers of the graph (default float)");
  programs::add_choice<twoheads::Precision>(
      app, "--rounding", spec.rounding,
      {{"none", twoheads::Precision::own},
       {"half", twoheads::Precision::half},
       {"bfloat16", twoheads::Precision::bfloat16}},
      "what operands, attention weights and answers are rounded to (default none)");
  programs::add_file(app, "--output", output, "the ONNX file to write")->required();

  programs::add_examples(app, {"twoheads_export --graph core --rows 64 --heads 8 --output core.onnx"});
  return programs::run(app, argc, argv, [&] {
    if (graph == GraphWord::core)
      programs::note_without_effect(app, {"--width"}, "the core is fed queries, keys and values");
    twoheads::write_onnx(output,
                         graph == GraphWord::core ? twoheads::export_core(spec) : twoheads::export_transformer(spec));
  });
}
