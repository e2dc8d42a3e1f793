//! From method and path to an endpoint. Pure: it knows no headers, no bodies and no state.

use std::borrow::Cow;

use hyper::Method;
use meed_schemas::http::problem::Problem;

/// Most segments that a path can have.
const SEGMENTS_MAX: usize = 8;
/// Most parameters that a query can have.
pub const QUERY_PARAMETERS_MAX: usize = 16;

/// A path segment, percent-decoded once; borrowed when nothing was encoded.
pub type Segment<'a> = Cow<'a, str>;

/// What a caller must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody: health, version, the catalogue of problems.
    Open,
    /// The role `read`.
    Read,
    /// The role `operate`.
    Operate,
    /// The role `admin`.
    Admin,
}

/// What body an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// None is read.
    None,
    /// One JSON document of at most the single limit.
    Single,
    /// JSON or NDJSON of at most the batch limit.
    Batch,
}

macro_rules! routes {
    ($($name:ident { $($segment:ident),* } $method:ident $template:literal $access:ident $payload:ident, $doc:literal;)*) => {
        /// An endpoint with what its path held.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Route<'a> {
            $(#[doc = $doc] #[allow(missing_docs)] $name { $($segment: Segment<'a>),* },)*
        }

        /// An endpoint without what its path held: the index of a metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Endpoint { $(#[doc = $doc] $name,)* #[doc = "No endpoint: the path, method or head was refused."] Unmatched }

        /// Every endpoint, at its own index.
        pub const ENDPOINTS: &[Endpoint] = &[$(Endpoint::$name,)* Endpoint::Unmatched];

        impl Route<'_> {
            /// The endpoint.
            pub fn endpoint(&self) -> Endpoint {
                match self { $(Self::$name { .. } => Endpoint::$name,)* }
            }
        }

        impl Endpoint {
            /// The path with placeholders, for metrics and logs.
            pub fn template(self) -> &'static str {
                match self { $(Self::$name => $template,)* Self::Unmatched => "unmatched" }
            }

            /// The method as a label; a GET is also a HEAD.
            pub fn method_label(self) -> &'static str {
                match self { $(Self::$name => stringify!($method),)* Self::Unmatched => "any" }
            }

            /// Who may call it.
            pub fn access(self) -> Access {
                match self { $(Self::$name => Access::$access,)* Self::Unmatched => Access::Open }
            }

            /// What body it takes.
            pub fn payload(self) -> Payload {
                match self { $(Self::$name => Payload::$payload,)* Self::Unmatched => Payload::None }
            }
        }
    };
}

routes! {
    Earn { account } POST "/api/v1/points/{account}/earn" Operate Single, "Award points.";
    Redeem { account } POST "/api/v1/points/{account}/redeem" Operate Single, "Spend points.";
    Balance { account } GET "/api/v1/points/{account}/balance" Read None, "The balance.";
    Lots { account } GET "/api/v1/points/{account}/lots" Read None, "The balance with its lots.";
    Adjust { account } POST "/api/v1/points/{account}/adjust" Admin Single, "Correct a balance.";
    AdminAdjust { account } POST "/api/v1/admin/points/{account}/adjust" Admin Single, "The same as adjust.";
    HoldCreate { account } POST "/api/v1/points/{account}/holds" Operate Single, "Authorize.";
    HoldList { account } GET "/api/v1/points/{account}/holds" Read None, "Open holds.";
    HoldGet { account, hold } GET "/api/v1/points/{account}/holds/{hold_id}" Read None, "One hold.";
    HoldCapture { account, hold } POST "/api/v1/points/{account}/holds/{hold_id}/capture" Operate Single, "Redeem what is held.";
    HoldVoid { account, hold } POST "/api/v1/points/{account}/holds/{hold_id}/void" Operate Single, "Release a hold.";
    History { account } GET "/api/v1/points/{account}/transactions" Read None, "Transactions, newest first.";
    Transaction { account, transaction } GET "/api/v1/points/{account}/transactions/{transaction_id}" Read None, "One transaction, explained.";
    Reverse { account, transaction } POST "/api/v1/points/{account}/transactions/{transaction_id}/reverse" Operate Single, "Take back an earn or a redemption.";
    OutcomeQuery { account } GET "/api/v1/points/{account}/outcomes" Read None, "The outcome of a business key.";
    Outcome { account, key } GET "/api/v1/points/{account}/outcomes/{idempotency_key}" Read None, "The outcome of an Idempotency-Key.";
    AccountPut { account } PUT "/api/v1/accounts/{account}" Operate Single, "Open an account.";
    AccountGet { account } GET "/api/v1/accounts/{account}" Read None, "An account.";
    AccountPatch { account } PATCH "/api/v1/accounts/{account}" Admin Single, "Change the status of an account.";
    AccountLookup {} POST "/api/v1/accounts/lookup" Read Single, "The account of an identifier.";
    AliasPut { account, alias } PUT "/api/v1/accounts/{account}/aliases/{alias}" Operate Single, "Bind an alias.";
    AliasDelete { account, alias } DELETE "/api/v1/accounts/{account}/aliases/{alias}" Operate Single, "Remove an alias.";
    AliasList { account } GET "/api/v1/accounts/{account}/aliases" Read None, "Aliases of an account.";
    TierPut { account } PUT "/api/v1/admin/users/{account}/tier" Admin Single, "Set a tier by hand.";
    PosTransaction {} POST "/api/v1/pos/transaction" Operate Single, "A sale at a till.";
    PosReturn {} POST "/api/v1/pos/return" Operate Single, "A return at a till.";
    PosBatch {} POST "/api/v1/pos/batch" Operate Batch, "Many till requests.";
    Batch {} POST "/api/v1/batch" Operate Batch, "Many requests.";
    ProgramPut { program } PUT "/api/v1/programs/{program}" Admin Single, "A version of a program.";
    ProgramGet { program } GET "/api/v1/programs/{program}" Read None, "A program.";
    Events {} GET "/api/v1/events" Read None, "The events of the program, as a stream.";
    Health {} GET "/health" Open None, "Whether the process runs.";
    Livez {} GET "/livez" Open None, "Whether the process runs.";
    HealthLive {} GET "/health/live" Open None, "Whether the process runs.";
    Readyz {} GET "/readyz" Open None, "Whether requests are answered.";
    HealthReady {} GET "/health/ready" Open None, "Whether requests are answered.";
    Version {} GET "/api/v1/version" Open None, "What runs.";
    ProblemGet { problem } GET "/problems/{problem}" Open None, "What a problem means.";
}

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// Nothing is at this path.
    NotFound,
    /// The path takes other methods, these, for the header `Allow`.
    MethodNotAllowed(&'static str),
    /// A segment cannot be decoded; the reason.
    BadPath(&'static str),
}

type Found<'a> = Result<Route<'a>, NoRoute>;

/// The route of a request. HEAD is taken as GET: what sends the answer leaves the body out.
pub fn resolve<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    let Some(relative) = path.strip_prefix('/') else { return Err(NoRoute::NotFound) };
    for segment in relative.split('/') {
        if segment.is_empty() || count == SEGMENTS_MAX {
            return Err(NoRoute::NotFound);
        }
        segments[count] = segment;
        count += 1;
    }
    match &segments[..count] {
        ["api", "v1", "points", account, rest @ ..] => points(method, account, rest),
        ["api", "v1", "pos", rest @ ..] => pos(method, rest),
        ["api", "v1", "batch"] => only(method, Method::POST, "POST", Route::Batch {}),
        ["api", "v1", "accounts", account, rest @ ..] => accounts(method, account, rest),
        ["api", "v1", "programs", program] => match *method {
            Method::GET => Ok(Route::ProgramGet { program: decode(program)? }),
            Method::PUT => Ok(Route::ProgramPut { program: decode(program)? }),
            _ => Err(NoRoute::MethodNotAllowed("GET, HEAD, PUT")),
        },
        ["api", "v1", "admin", "points", account, "adjust"] => {
            only(method, Method::POST, "POST", Route::AdminAdjust { account: decode(account)? })
        }
        ["api", "v1", "admin", "users", account, "tier"] => {
            only(method, Method::PUT, "PUT", Route::TierPut { account: decode(account)? })
        }
        ["api", "v1", "events"] => get(method, Route::Events {}),
        ["api", "v1", "version"] => get(method, Route::Version {}),
        ["health"] => get(method, Route::Health {}),
        ["livez"] => get(method, Route::Livez {}),
        ["readyz"] => get(method, Route::Readyz {}),
        ["health", "live"] => get(method, Route::HealthLive {}),
        ["health", "ready"] => get(method, Route::HealthReady {}),
        ["problems", problem] => get(method, Route::ProblemGet { problem: decode(problem)? }),
        _ => Err(NoRoute::NotFound),
    }
}

fn points<'a>(method: &Method, account: &'a str, rest: &[&'a str]) -> Found<'a> {
    // An unknown path is refused before its account is decoded: 404 rather than 400.
    let account = || decode(account);
    match rest {
        ["earn"] => only(method, Method::POST, "POST", Route::Earn { account: account()? }),
        ["redeem"] => only(method, Method::POST, "POST", Route::Redeem { account: account()? }),
        ["balance"] => get(method, Route::Balance { account: account()? }),
        ["lots"] => get(method, Route::Lots { account: account()? }),
        ["adjust"] => only(method, Method::POST, "POST", Route::Adjust { account: account()? }),
        ["holds"] => match *method {
            Method::POST => Ok(Route::HoldCreate { account: account()? }),
            Method::GET => Ok(Route::HoldList { account: account()? }),
            _ => Err(NoRoute::MethodNotAllowed("GET, HEAD, POST")),
        },
        ["holds", hold] => get(method, Route::HoldGet { account: account()?, hold: decode(hold)? }),
        ["holds", hold, "capture"] => {
            only(method, Method::POST, "POST", Route::HoldCapture { account: account()?, hold: decode(hold)? })
        }
        ["holds", hold, "void"] => {
            only(method, Method::POST, "POST", Route::HoldVoid { account: account()?, hold: decode(hold)? })
        }
        ["transactions"] => get(method, Route::History { account: account()? }),
        ["transactions", transaction] => {
            get(method, Route::Transaction { account: account()?, transaction: decode(transaction)? })
        }
        ["transactions", transaction, "reverse"] => only(
            method,
            Method::POST,
            "POST",
            Route::Reverse { account: account()?, transaction: decode(transaction)? },
        ),
        ["outcomes"] => get(method, Route::OutcomeQuery { account: account()? }),
        ["outcomes", key] => get(method, Route::Outcome { account: account()?, key: decode(key)? }),
        _ => Err(NoRoute::NotFound),
    }
}

fn pos<'a>(method: &Method, rest: &[&'a str]) -> Found<'a> {
    let route = match rest {
        ["transaction"] => Route::PosTransaction {},
        ["return"] => Route::PosReturn {},
        ["batch"] => Route::PosBatch {},
        _ => return Err(NoRoute::NotFound),
    };
    only(method, Method::POST, "POST", route)
}

fn accounts<'a>(method: &Method, account: &'a str, rest: &[&'a str]) -> Found<'a> {
    match rest {
        [] if account == "lookup" && *method == Method::POST => Ok(Route::AccountLookup {}),
        [] => match *method {
            Method::PUT => Ok(Route::AccountPut { account: decode(account)? }),
            Method::GET => Ok(Route::AccountGet { account: decode(account)? }),
            Method::PATCH => Ok(Route::AccountPatch { account: decode(account)? }),
            _ if account == "lookup" => Err(NoRoute::MethodNotAllowed("GET, HEAD, PATCH, POST, PUT")),
            _ => Err(NoRoute::MethodNotAllowed("GET, HEAD, PATCH, PUT")),
        },
        ["aliases"] => get(method, Route::AliasList { account: decode(account)? }),
        ["aliases", alias] => match *method {
            Method::PUT => Ok(Route::AliasPut { account: decode(account)?, alias: decode(alias)? }),
            Method::DELETE => Ok(Route::AliasDelete { account: decode(account)?, alias: decode(alias)? }),
            _ => Err(NoRoute::MethodNotAllowed("DELETE, PUT")),
        },
        _ => Err(NoRoute::NotFound),
    }
}

#[inline]
fn only<'a>(method: &Method, wanted: Method, allow: &'static str, route: Route<'a>) -> Found<'a> {
    if *method == wanted { Ok(route) } else { Err(NoRoute::MethodNotAllowed(allow)) }
}

#[inline]
fn get<'a>(method: &Method, route: Route<'a>) -> Found<'a> {
    only(method, Method::GET, "GET, HEAD", route)
}

fn decode(segment: &str) -> Result<Segment<'_>, NoRoute> {
    percent_decode(segment).map_err(NoRoute::BadPath)
}

fn form_decode(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if !text.contains('+') {
        return percent_decode(text);
    }
    percent_decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// Decodes percent-encoding once. A `+` stays a `+`.
pub fn percent_decode(text: &str) -> Result<Cow<'_, str>, &'static str> {
    let bytes = text.as_bytes();
    let Some(first) = bytes.iter().position(|byte| *byte == b'%') else { return Ok(Cow::Borrowed(text)) };
    let mut decoded = Vec::with_capacity(bytes.len());
    decoded.extend_from_slice(&bytes[..first]);
    let mut rest = &bytes[first..];
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = after;
            continue;
        }
        let &[high, low, ref after @ ..] = after else { return Err(NOT_HEXADECIMAL) };
        let (Some(high), Some(low)) = (hexadecimal(high), hexadecimal(low)) else {
            return Err(NOT_HEXADECIMAL);
        };
        decoded.push(high << 4 | low);
        rest = after;
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| "percent-encoded bytes are not UTF-8")
}

const NOT_HEXADECIMAL: &str = "a `%` is not followed by two hexadecimal digits";

/// The value of a hexadecimal digit.
pub(crate) fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The parameters of a query, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// What is wrong with a query: the parameter, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// The parameter, or `query`.
    pub field: String,
    /// Why it is refused.
    pub detail: &'static str,
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let detail = format!("`{}`: {}", error.field, error.detail);
        Self::invalid(error.field, detail)
    }
}

impl<'a> Query<'a> {
    /// Reads the query of a request, written as forms are (`application/x-www-form-urlencoded` of the URL standard):
    /// percent-encoded, and a `+` is a space, as what builds queries in most languages writes it. Names other than
    /// `known`, names given twice and bad percent-encoding are refused. A name without `=` has an empty value.
    pub fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, QueryError> {
        let refuse = |field: &str, detail| Err(QueryError { field: field.to_owned(), detail });
        let mut parameters: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = match form_decode(name) {
                Ok(name) => name,
                Err(detail) => return refuse("query", detail),
            };
            if !known.contains(&&*name) {
                return refuse(&name, "there is no such parameter");
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return refuse(&name, "the parameter is given twice");
            }
            if parameters.len() == QUERY_PARAMETERS_MAX {
                return refuse("query", "too many parameters");
            }
            match form_decode(value) {
                Ok(value) => parameters.push((name, value)),
                Err(detail) => return refuse(&name, detail),
            }
        }
        Ok(Self(parameters))
    }

    /// Every parameter, name and value.
    pub fn pairs(&self) -> &[(Cow<'a, str>, Cow<'a, str>)] {
        &self.0
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_endpoint_is_reached_by_its_template_and_by_no_other_method() {
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
        let (_, endpoints) = ENDPOINTS.split_last().unwrap();
        for (index, &endpoint) in ENDPOINTS.iter().enumerate() {
            assert_eq!(endpoint as usize, index);
        }
        for &endpoint in endpoints {
            let path = endpoint.template().replace('{', "x").replace('}', "");
            let method = endpoint.method_label().parse().unwrap();
            assert_eq!(resolve(&method, &path).map(|r| r.endpoint()), Ok(endpoint), "{path}");
            let taken: Vec<&Method> = methods.iter().filter(|m| resolve(m, &path).is_ok()).collect();
            for method in &methods {
                if taken.contains(&method) {
                    continue;
                }
                let Err(NoRoute::MethodNotAllowed(allow)) = resolve(method, &path) else { panic!("{method} {path}") };
                let allowed: Vec<&str> = allow.split(", ").filter(|name| *name != "HEAD").collect();
                let names: Vec<&str> = taken.iter().map(|m| m.as_str()).collect();
                assert!(allowed.iter().all(|a| names.contains(a)) && allowed.len() == names.len(), "{path}: {allow}");
            }
            let head = resolve(&Method::HEAD, &path).is_ok();
            assert_eq!(head, taken.contains(&&Method::GET), "HEAD {path}");
        }
    }

    /// The endpoints of the contract, written down here once more.
    #[test]
    fn the_contract_is_covered() {
        let contract = "GET points/a/balance,GET points/a/lots,POST points/a/earn,POST points/a/redeem,\
            POST points/a/adjust,POST admin/points/a/adjust,PUT admin/users/a/tier,POST points/a/holds,\
            GET points/a/holds,GET points/a/holds/1-2,POST points/a/holds/1-2/capture,\
            POST points/a/holds/1-2/void,POST points/a/transactions/1-2/reverse,GET points/a/transactions,\
            GET points/a/transactions/1-2,GET points/a/outcomes/k,GET points/a/outcomes,PUT accounts/a,\
            GET accounts/a,PATCH accounts/a,PUT accounts/a/aliases/x:y,DELETE accounts/a/aliases/x:y,\
            GET accounts/a/aliases,POST accounts/lookup,POST pos/transaction,POST pos/return,POST pos/batch,\
            POST batch,PUT programs/p,GET programs/p,GET version";
        for line in contract.split(',') {
            let (method, path) = line.trim().split_once(' ').unwrap();
            let path = format!("/api/v1/{path}");
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let endpoint = resolve(&method, &path).unwrap().endpoint();
            assert_eq!(endpoint.template().split('/').count(), path.split('/').count(), "{path}");
        }
    }

    #[test]
    fn segments_are_decoded_once() {
        let route = resolve(&Method::GET, "/api/v1/points/a%2Fb%2525/outcomes/%C3%A9+").unwrap();
        assert_eq!(route, Route::Outcome { account: "a/b%25".into(), key: "é+".into() });
        let borrowed = resolve(&Method::GET, "/api/v1/points/m-1/balance").unwrap();
        assert!(matches!(borrowed, Route::Balance { account: Cow::Borrowed("m-1") }));
        for bad in ["%", "%4", "%zz", "a%ff", "%C3%28", "%+1"] {
            let path = format!("/api/v1/points/{bad}/balance");
            assert!(matches!(resolve(&Method::GET, &path), Err(NoRoute::BadPath(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in [
            "",
            "*",
            "/",
            "//",
            "/api/v1",
            "/api/v1/",
            "/api/v1/points",
            "/api/v1/points/a",
            "/api/v1/points//balance",
            "/api/v1/points/a/balance/",
            "/api/v1/points/%/nothing",
            "/a/b/c/d/e/f/g/h/i/j",
            "/API/v1/version",
            "/metrics",
            "/problems",
            "/api/v1/accounts",
        ] {
            assert_eq!(resolve(&Method::GET, path), Err(NoRoute::NotFound), "{path}");
        }
    }

    #[test]
    fn queries_are_strict() {
        let query =
            Query::parse(Some("op=earn&reference_id=a%26b+c%2Bd%20e&source"), &["op", "reference_id", "source"])
                .unwrap();
        assert_eq!(query.get("reference_id"), Some("a&b c+d e"));
        assert_eq!(query.get("source"), Some(""));
        assert_eq!(query.get("nothing"), None);
        let field = |text| Query::parse(Some(text), &["op"]).unwrap_err().field;
        assert_eq!(field("op=1&op=2"), "op");
        assert_eq!(field("op=1&%6Fp=2"), "op");
        assert_eq!(field("limit=1"), "limit");
        assert_eq!(field("op=%"), "op");
        assert_eq!(field("%=1"), "query");
        assert_eq!(Query::parse(None, &[]), Ok(Query::default()));
    }
}
