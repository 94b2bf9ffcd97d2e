#include "common/dotted_name.h"

#include <gtest/gtest.h>

namespace heddle {
namespace {

TEST(DottedNames, HaveWholeComponents) {
  EXPECT_TRUE(HasComponents("base.classifier.dense", "classifier"));
  EXPECT_TRUE(HasComponents("classifier", "classifier"));
  EXPECT_TRUE(HasComponents("model.layers.0.mlp", "layers.0"));
  EXPECT_FALSE(HasComponents("model.layers.01.mlp", "layers.0"));
  EXPECT_FALSE(HasComponents("pre_classifier.weight", "classifier"));
  EXPECT_FALSE(HasComponents("classifiers", "classifier"));
  EXPECT_FALSE(HasComponents("anything", ""));
  EXPECT_FALSE(HasComponents("h.0.q_proj.weight", "0.q")) << "a part of a component";
  EXPECT_TRUE(HasComponents("aa.a.b", "a.b"));
  EXPECT_TRUE(HasComponents("ab.bb.b", "b")) << "a later occurrence counts though earlier ones are parts of words";
}

TEST(DottedName, TheFirstNumberAmongTheComponentsIsFound) {
  EXPECT_EQ(FirstNumber("base_model.model.bert.encoder.layer.11.output.dense.weight"), 11U);
  EXPECT_EQ(FirstNumber("h.0"), 0U);
  EXPECT_EQ(FirstNumber("a.2.b.7"), 2U);
  for (const char* name : {"", "a.1x.b", "cls.bias", "a.-1", "99999999999"}) {
    EXPECT_EQ(FirstNumber(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace heddle
