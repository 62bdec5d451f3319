// The `graft` command: finds the verb, runs it, turns errors into exit codes.
#include <csignal>

#include "cli/command.h"
#include "cli/verbs.h"
#include "graph/version.h"
#include "runtime/device/cpu/system.h"
#include "runtime/device/cpu/waiting.h"

namespace graft {
namespace {

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(verb->get_name());
  return names;
}

std::vector<std::string> flag_names(const CLI::App& verb) {
  std::vector<std::string> names;
  for (const CLI::Option* option : verb.get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// What the parser could not place comes first: a misspelt flag is more often the mistake than the one it leaves
// missing. `app` is the command or a verb, called `name`.
[[noreturn]] void refuse(const CLI::App& app, const std::string& name, const CLI::ParseError& error) {
  std::vector<CLI::App*> parsed = app.get_subcommands();
  std::vector<std::string> verbs = verb_names(app);
  std::vector<std::string> extras = app.remaining();
  std::string help = cat(" (see ", name, " --help)");
  if (!parsed.empty()) refuse(*parsed[0], name + ' ' + parsed[0]->get_name(), error);
  if (!verbs.empty()) {
    if (extras.empty()) throw UsageError("no verb given: ", CLI::detail::join(verbs, ", "), help);
    if (extras[0].starts_with('-')) throw UsageError("unknown flag ", extras[0], " before the verb", help);
    throw UsageError("unknown verb \"", extras[0], "\"; nearest: ", nearest_names(extras[0], verbs, 1).at(0));
  }
  std::string verb = name.substr(name.find(' ') + 1);
  if (extras.empty()) throw UsageError(verb, ": ", error.what(), help);
  if (!extras[0].starts_with('-')) throw UsageError(verb, ": unexpected argument \"", extras[0], '"', help);
  std::string flag = extras[0].substr(0, extras[0].find('='));
  throw UsageError(verb, ": unknown flag ", flag,
                   "; nearest: ", CLI::detail::join(nearest_names(flag, flag_names(app)), ", "), help);
}

int run(int argc, char** argv) {
  CLI::App app("Fine-tunes ONNX models in place: the same graph comes out with new weights.", "graft");
  app.set_help_flag("-h,--help", "Print this and exit");
  app.set_version_flag("--version", "graft " + version());
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed run, 2 wrong usage, 3 bad model, 4 bad data, 5 unsupported.\n"
      "Results go to stdout, the log to stderr. graft VERB --help shows options and examples.");
  add_inspect(app);
  add_run(app);
  add_train(app);
  add_evaluate(app);
  add_predict(app);
  add_bench(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_result(app.help());
  } catch (const CLI::CallForVersion& version) {
    print_result(std::string(version.what()) + '\n');
  } catch (const CLI::ParseError& error) {
    refuse(app, "graft", error);
  }
  return 0;
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  graft::limit_busy_waiting(argv);
  graft::return_large_buffers();
  std::signal(SIGPIPE, SIG_IGN);  // a reader that has seen enough ends nothing
  graft::start_log();
  try {
    return graft::run(argc, argv);
  } catch (const std::exception& error) {
    return graft::report(error);
  }
}
