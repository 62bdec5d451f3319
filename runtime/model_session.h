// A model file in use: the file as it was, and the Session that runs it. What the command and embedding programs start
// from.
#pragma once

#include "importers/onnx/model.h"
#include "runtime/session.h"

namespace graft {

class ModelSession {
 public:
  // Takes an edited or freshly loaded model over: its weights move into the session's store and lie there only.
  explicit ModelSession(OnnxModel model, SessionOptions options = {});
  // Errors as OnnxModel::load and OnnxModel::graph have them.
  static ModelSession open(const std::filesystem::path& path, SessionOptions options = {});

  const OnnxModel& file() const { return file_; }
  Session& session() { return *session_; }
  const Session& session() const { return *session_; }

  // Writes the model with the states as they are now, see OnnxModel::save.
  void save(const std::filesystem::path& path, const SaveOptions& options = {}) const;

 private:
  OnnxModel file_;
  std::unique_ptr<Session> session_;
};

}  // namespace graft
