//! Flight's calls: each asks who calls, and hands on. arrow-flight's own dispatch over Flight SQL
//! stands in for none of them, since it answers neither GetSchema nor PollFlightInfo, lists actions
//! that this server refuses, and calls what it cannot decode an internal error.

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::actions::action_types;
use super::auth::handshake;
use super::state::Server;

type Messages<T> = BoxStream<'static, Result<T, Status>>;

#[async_trait]
impl FlightService for Server {
    type HandshakeStream = Messages<HandshakeResponse>;
    type ListFlightsStream = Messages<FlightInfo>;
    type DoGetStream = Messages<FlightData>;
    type DoPutStream = Messages<PutResult>;
    type DoExchangeStream = Messages<FlightData>;
    type DoActionStream = Messages<arrow_flight::Result>;
    type ListActionsStream = Messages<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        handshake(&self.access, request, self.now()).await
    }

    /// Nothing is kept ready: every flight begins with a command.
    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.caller(&request).await?;
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = self.caller(&request).await?;
        let (metadata, _, descriptor) = request.into_parts();
        self.info(&caller, &metadata, descriptor).await.map(Response::new)
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let caller = self.caller(&request).await?;
        let (metadata, _, descriptor) = request.into_parts();
        self.poll(caller, metadata, descriptor).await.map(Response::new)
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let caller = self.caller(&request).await?;
        self.schema(&caller, request.metadata(), request.get_ref()).await.map(Response::new)
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let caller = self.caller(&request).await?;
        self.rows(&caller, request.get_ref()).await.map(Response::new)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let caller = self.caller(&request).await?;
        let (metadata, _, messages) = request.into_parts();
        let result = self.put(&caller, &metadata, messages).await?;
        Ok(Response::new(stream::iter([Ok(result)]).boxed()))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.caller(&request).await?;
        Err(Status::unimplemented("there is nothing to exchange"))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let caller = self.caller(&request).await?;
        let answer = self.act(&caller, request.metadata(), request.get_ref()).await?;
        let results = answer.body.map(|body| Ok(arrow_flight::Result::new(body)));
        let mut response = Response::new(stream::iter(results).boxed());
        if let Some(cookie) = answer.cookie {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        self.caller(&request).await?;
        Ok(Response::new(stream::iter(action_types().map(Ok)).boxed()))
    }
}
