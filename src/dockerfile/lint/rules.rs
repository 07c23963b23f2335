//! The rules, as a table.

/// A rule of the linter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the table says what they are")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

/// What is to be known of a rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleInfo {
    /// The rule.
    pub rule: Rule,
    /// Its name, as in `# check=skip=`.
    pub name: &'static str,
    /// What it says, in a line.
    pub summary: &'static str,
    /// Why it is a rule.
    pub explanation: &'static str,
    /// A Dockerfile, or a part of one, that it warns of.
    pub bad: &'static str,
    /// The same, done well.
    pub good: &'static str,
    /// Whether it only runs where `# check=experimental=` names it.
    pub experimental: bool,
}

impl Rule {
    /// What is to be known of it.
    pub fn info(self) -> &'static RuleInfo {
        // The table is in the enum's order, which a test holds it to.
        &RULES[self as usize]
    }

    /// The rule of that name, whatever its case.
    pub fn find(name: &str) -> Option<Self> {
        RULES
            .iter()
            .find(|info| info.name.eq_ignore_ascii_case(name))
            .map(|info| info.rule)
    }
}

/// All rules.
pub const RULES: [RuleInfo; 22] = [
    RuleInfo {
        rule: Rule::StageNameCasing,
        name: "StageNameCasing",
        summary: "Stage names should be lowercase",
        explanation: "COPY --from and --target ignore a stage name's case, but FROM finds a stage only where the case agrees. With small letters all three agree.",
        bad: "FROM alpine AS Builder\n",
        good: "FROM alpine AS builder\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::FromAsCasing,
        name: "FromAsCasing",
        summary: "The 'as' keyword should match the case of the 'from' keyword",
        explanation: "FROM and AS belong to one instruction and are easier to read in one case.",
        bad: "FROM alpine as build\n",
        good: "FROM alpine AS build\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::NoEmptyContinuation,
        name: "NoEmptyContinuation",
        summary: "Empty continuation lines will become errors in a future release",
        explanation: "An empty line inside an instruction looks like its end and isn't. Most often the escape character in the line before was left behind by mistake.",
        bad: "RUN make \\\n\n    install\n",
        good: "RUN make \\\n    install\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::ConsistentInstructionCasing,
        name: "ConsistentInstructionCasing",
        summary: "All commands within the Dockerfile should use the same casing (either upper or lower)",
        explanation: "Instructions may be written in any case; one case throughout the file makes them stand out from their arguments. The case that most of them have is the one to follow.",
        bad: "FROM alpine\nRun make\n",
        good: "FROM alpine\nRUN make\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::DuplicateStageName,
        name: "DuplicateStageName",
        summary: "Stage names should be unique",
        explanation: "Of two stages with one name only the last can be referred to, so a COPY --from may take its files from another stage than its author meant.",
        bad: "FROM golang AS build\nFROM node AS build\n",
        good: "FROM golang AS build-server\nFROM node AS build-pages\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::ReservedStageName,
        name: "ReservedStageName",
        summary: "Reserved words should not be used as stage names",
        explanation: "`scratch` is the empty image and `context` the files given to the build. A stage of that name can't be told from them.",
        bad: "FROM alpine AS context\n",
        good: "FROM alpine AS files\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::JSONArgsRecommended,
        name: "JSONArgsRecommended",
        summary: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        explanation: "Without a JSON list the command runs below a shell, which doesn't pass signals on: the container can't be stopped in good order. Where a shell is wanted, a SHELL instruction says so.",
        bad: "ENTRYPOINT server --port 80\n",
        good: "ENTRYPOINT [\"server\", \"--port\", \"80\"]\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::MaintainerDeprecated,
        name: "MaintainerDeprecated",
        summary: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        explanation: "MAINTAINER sets a single field that few tools show. Labels hold any number of such facts, and there is a common name for this one.",
        bad: "MAINTAINER me@example.org\n",
        good: "LABEL org.opencontainers.image.authors=\"me@example.org\"\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::UndefinedArgInFrom,
        name: "UndefinedArgInFrom",
        summary: "FROM command must use declared ARGs",
        explanation: "A FROM can use only what an ARG before the first FROM declares. A name that isn't declared is empty, whatever --build-arg says.",
        bad: "FROM alpine:$VERSION\n",
        good: "ARG VERSION=3.22\nFROM alpine:$VERSION\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::WorkdirRelativePath,
        name: "WorkdirRelativePath",
        summary: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
        explanation: "A relative path starts from the base image's working directory, and that may change with the next version of the base image.",
        bad: "FROM nginx\nWORKDIR pages\n",
        good: "FROM nginx\nWORKDIR /srv/pages\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::UndefinedVar,
        name: "UndefinedVar",
        summary: "Variables should be defined before their use",
        explanation: "A variable that neither ARG nor ENV nor the base image defines is empty where it is used. Most often its name is misspelt, or its ARG stands before the first FROM and isn't repeated in the stage.",
        bad: "FROM alpine\nCOPY $SOURCE /src\n",
        good: "FROM alpine\nARG SOURCE=.\nCOPY $SOURCE /src\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::MultipleInstructionsDisallowed,
        name: "MultipleInstructionsDisallowed",
        summary: "Multiple instructions of the same type should not be used in the same stage",
        explanation: "A stage has one CMD, one ENTRYPOINT and one HEALTHCHECK: the last of each wins, and those before it do nothing.",
        bad: "CMD [\"first\"]\nCMD [\"second\"]\n",
        good: "CMD [\"second\"]\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::LegacyKeyValueFormat,
        name: "LegacyKeyValueFormat",
        summary: "Legacy key/value format with whitespace separator should not be used",
        explanation: "Without `=` all of the rest of the line is one value, so a second pair on the line silently becomes a part of the first.",
        bad: "ENV DIR /srv\n",
        good: "ENV DIR=/srv\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::InvalidBaseImagePlatform,
        name: "InvalidBaseImagePlatform",
        summary: "Base image platform does not match expected target platform",
        explanation: "The base image isn't there for the platform that is built for, so its programs may not run. Choose a base image that has the platform, or say with --platform which one is meant.",
        bad: "# built with --platform=linux/arm64\nFROM amd64/alpine\n",
        good: "FROM alpine\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::RedundantTargetPlatform,
        name: "RedundantTargetPlatform",
        summary: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        explanation: "A FROM without --platform already takes the platform that is built for.",
        bad: "FROM --platform=$TARGETPLATFORM alpine\n",
        good: "FROM alpine\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::SecretsUsedInArgOrEnv,
        name: "SecretsUsedInArgOrEnv",
        summary: "Sensitive data should not be used in the ARG or ENV commands",
        explanation: "Values of ARG and ENV stay in the image's history and config, where everyone who has the image can read them. A secret mount leaves nothing behind.",
        bad: "ARG API_TOKEN\nRUN fetch --token=$API_TOKEN\n",
        good: "RUN --mount=type=secret,id=api_token,env=API_TOKEN fetch --token=$API_TOKEN\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::InvalidDefaultArgInFrom,
        name: "InvalidDefaultArgInFrom",
        summary: "Default value for global ARG results in an empty or invalid base image name",
        explanation: "Without --build-arg the image's name comes out empty or malformed and the build fails. A default lets the file build as it is.",
        bad: "ARG TAG\nFROM alpine:$TAG\n",
        good: "ARG TAG=3.22\nFROM alpine:$TAG\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::FromPlatformFlagConstDisallowed,
        name: "FromPlatformFlagConstDisallowed",
        summary: "FROM --platform flag should not use a constant value",
        explanation: "A fixed platform makes the stage the same for every platform that is built for. Where that is meant, $BUILDPLATFORM or a stage name with the platform in it says so.",
        bad: "FROM --platform=linux/amd64 alpine AS base\n",
        good: "FROM --platform=$BUILDPLATFORM alpine AS base\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::CopyIgnoredFile,
        name: "CopyIgnoredFile",
        summary: "Attempting to Copy file that is excluded by .dockerignore",
        explanation: "What .dockerignore excludes isn't there for COPY and ADD, so the build fails for want of a file that exists.",
        bad: "# .dockerignore has `*.log`\nCOPY install.log /tmp/\n",
        good: "# .dockerignore has `*.log` and `!install.log`\nCOPY install.log /tmp/\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::InvalidDefinitionDescription,
        name: "InvalidDefinitionDescription",
        summary: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        explanation: "A comment right above a FROM or ARG that begins with its name is shown as its description where stages and arguments are listed.",
        bad: "# compiles the server\nFROM golang AS build\n",
        good: "# build compiles the server\nFROM golang AS build\n",
        experimental: true,
    },
    RuleInfo {
        rule: Rule::ExposeProtoCasing,
        name: "ExposeProtoCasing",
        summary: "Protocol in EXPOSE instruction should be lowercase",
        explanation: "Protocols are written in small letters in image configs; some programs that read EXPOSE don't know others.",
        bad: "EXPOSE 80/TCP\n",
        good: "EXPOSE 80/tcp\n",
        experimental: false,
    },
    RuleInfo {
        rule: Rule::ExposeInvalidFormat,
        name: "ExposeInvalidFormat",
        summary: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
        explanation: "An image can't choose the host's address and port; EXPOSE drops them. They belong to the command that starts the container.",
        bad: "EXPOSE 127.0.0.1:8080:80\n",
        good: "EXPOSE 80\n",
        experimental: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (i, info) in RULES.iter().enumerate() {
            assert_eq!(info.rule as usize, i, "{}", info.name);
            assert_eq!(format!("{:?}", info.rule), info.name);
            assert_eq!(Rule::find(&info.name.to_lowercase()), Some(info.rule));
            assert!(
                std::ptr::eq(info.rule.info().name, info.name)
                    || info.rule.info().name == info.name
            );
        }
    }
}
