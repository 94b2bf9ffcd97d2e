// RunOrigin::material_json: what a resumed run needs beside its recipe. JSON with the submission's folder and
// overrides, the base model's blobs, the digest of the initial adapter and the adapter's configuration.
//
// Thread-safety: pure functions.
#pragma once

#include <string>

#include "coordinator/service/run_core.h"

namespace heddle::coordinator {

std::string MaterialJson(const Submission& submission, const RunMaterial& material, const Sha256Digest& adapter);

// Fills in what MaterialJson wrote. Errors: kDataLoss when the text is not that.
Status ReadMaterialJson(const std::string& text, Submission* submission, RunMaterial* material);

// What its checkpoints say of the base model (peft/adapter/base_model.h): the files of weights.
std::string BaseModelJsonOf(const RunMaterial& material);

}  // namespace heddle::coordinator
